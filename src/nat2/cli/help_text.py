"""What the help of each verb begins with."""

ABOUT = """Small, fast, accurate image classifiers for your own data, by Neural Architecture Transfer 2.

nat2 run                    the whole way on 1,797 bundled digits
nat2 run --data photos      the same for your images: a folder of class folders
nat2 VERB --help            what a verb does, with examples
"""
EXAMPLES = {
    "run": """examples:
  nat2 run                                    the whole way on 1,797 bundled digits
  nat2 run --data photos                      the same for a folder of class folders
  nat2 run --data photos --objectives error,macs --out runs/fast
  nat2 run --data photos --target microcontroller   what fits a small chip, and its C files
  nat2 run --config settings.yaml --seed 1    a file of settings, and flags over it
  nat2 run runs/photos                        go on with a run that was interrupted

Train a super-network on your images, search it, fine-tune, test and export the best networks, and write a report.
A run that was interrupted continues when the same command is given again.
""",
    "profile": """examples:
  nat2 profile --data photos                                        what a run on these images would be
  nat2 profile --data photos --budget "params<=200k,latency<=3ms"   and whether a budget can be met
  nat2 profile --config settings.yaml

Look at the images and the search space and train for a few steps: how many networks there are, what they cost, which
share of them keeps the budget, and how long the run will take. Takes the settings of `nat2 run`; writes nothing.
""",
    "train": """examples:
  nat2 train --data photos                            train the super-network, and stop there
  nat2 train --data photos --preset nat2 --devices 4  with the published schedule, on four devices
  nat2 train runs/photos                              go on with a training that was interrupted

Train a super-network on your images by extended progressive shrinking: the first stage of `nat2 run`, whose settings
it takes. Go on with `nat2 search`.
""",
    "search": """examples:
  nat2 search runs/photos                                  search the super-network of a run
  nat2 search runs/photos --budget "params<=200k"          settings of what has not begun may be given now
  nat2 search --data photos                                train first, then search

Search the super-network for the networks that trade accuracy against your objectives best, and adapt it meanwhile: the
second stage of `nat2 run`, whose settings it takes. Go on with `nat2 finetune`.
""",
    "finetune": """examples:
  nat2 finetune runs/photos                           fine-tune, test and export what the search has found
  nat2 finetune runs/photos 1a2b3c4d 5e6f7a8b         and two more networks of the archive; also of a finished run
  nat2 finetune runs/photos --finetune.variant both   with one exit, and with several that answer together

Fine-tune the best networks of a search, test them once, export them, and write the report: the last stage of
`nat2 run`, whose settings it takes.
""",
    "export": """examples:
  nat2 export runs/photos 1a2b3c4d --to deploy          a network's files to a folder of your own
  nat2 export runs/photos 1a2b3c4d --to deploy --int8   and in 8-bit integers, with their accuracy
  nat2 export runs/photos --int8                        8 bits for all networks of a run, where they are
  nat2 export runs/photos 1a2b3c4d --to deploy --for microcontroller   a C array, and what it takes on a chip
  nat2 export runs/photos 1a2b3c4d --to deploy --for browser           a page that classifies pictures

Write the files of networks that a run has returned, model.pt2 included, and check on this machine that they answer as
they should.
""",
    "latency": """examples:
  nat2 latency runs/photos                                          all networks of a run
  nat2 latency deploy/1a2b3c4d --batch 1,8 --threads 1,2            one, in four ways
  nat2 latency deploy/1a2b3c4d --runtime onnx,int8,torch --csv t.csv

Measure on this machine how long exported networks take: warm-up, then the median and quartiles of many runs.
""",
    "report": """examples:
  nat2 report runs/photos                                 draw report.html again; also of a run in progress
  nat2 report runs/photos --references published.csv      with networks of your choice for comparison
  nat2 report runs/photos runs/fast --out both.html       compare runs

Write the page of a run: its networks, sliders that single one out, how the search went, and what good networks have in
common. The table of references has the columns name and accuracy, and any of params, macs, memory and latency.
""",
    "predict": """examples:
  nat2 predict runs/photos/networks/1a2b3c4d cat.jpg dog.jpg
  nat2 predict runs/photos/networks/1a2b3c4d new/*.png --top 1
  nat2 predict runs/photos/networks/1a2b3c4d new --csv answers.csv --json answers.json
  nat2 predict runs/photos/networks/1a2b3c4d-ee cat.jpg --threshold 0.9

Classify images, and folders of them, with an exported network, and print the most probable classes or write them to
files. Of a network with several exits the first may answer that is sure enough.
""",
    "networks": """examples:
  nat2 networks                                  the trained networks, smallest first
  nat2 networks --classes 2 --csv networks.csv   their costs with two classes, into a table

List the trained networks that `nat2 create` can write: parameters, multiply-accumulates, and accuracy on Tiny ImageNet.
""",
    "create": """examples:
  nat2 create --params 50k --resolution 48 --classes 10 --out net   the most accurate one within a budget
  nat2 create --macs 2M --classes 2 --out net                       by multiply-accumulates
  nat2 create NAME --classes 10 --out net                           one of those that `nat2 networks` lists
  nat2 create --params 50k --classes 10 --random --out net          the same network with random weights

Write a trained network with a new classifier, to be fine-tuned by a training loop of your own: nat2.load reads it in
Python. It has been trained on Tiny ImageNet and needs no search.
""",
}
