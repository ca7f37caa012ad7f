"""From a fine-tuned network to files that run without this package."""

from nat2.deploy.export import Deployable, export, load

__all__ = ["Deployable", "export", "load"]
