"""From a fine-tuned network to files that run without this package."""

from nat2.deploy.deployable import Deployable, load
from nat2.deploy.export import export

__all__ = ["Deployable", "export", "load"]
