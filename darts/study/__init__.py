"""Studies: methods x settings x seeds, each cell a run of its own, and one table of results.

A study is a YAML file:

    title: s and λ                   # optional
    out: runs/study                  # folder of the study
    base: {space: nb201, epochs: 30} # settings of every search
    methods: [edd, darts-v1]
    seeds: [0, 1, 2]
    settings:                        # optional: named variations
      s100: {options: {scale: 100}}
      st1: {options: {smooth_temperature: 1}}
    per_method:                      # optional: settings of single methods
      sgas: {options: {interval: 1}}
    evaluate:                        # optional: what each network found is then trained on
      C10: {recipe: darts, data: {source: cifar10}}
    profiles:                        # optional: named changes of all the above; one is then chosen
      small: {base: {epochs: 2}}

An entry of `methods` may be a mapping instead of a name: `method`, and if wanted `name` (shown in
the table), `id` (names its folders), `seeds` (at most so many), `paper` (published values by
column, within the setting's name where there are settings), `evaluate`, and any setting of the
search.

Every cell is a run folder under `out/cells`, searched (and evaluated) by processes of its own: one
that dies is started again and resumes from its newest checkpoint, and a study that is started again
goes on with what is not finished. Studies with the same `out` share the cells that they have in
common.
"""

from darts.study.plan import Cell, Study, read_study
from darts.study.run import Run, run_cell, run_on_ray, run_study
from darts.study.table import markdown, table

__all__ = [
    "Cell",
    "Run",
    "Study",
    "markdown",
    "read_study",
    "run_cell",
    "run_on_ray",
    "run_study",
    "table",
]
