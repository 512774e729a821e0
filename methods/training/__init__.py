"""How each small network is trained: `all_tasks` lists the tasks in an order in which every need comes first.

A task says what it makes and what it needs; `trainer` runs one and goes on from its last checkpoint. The others are
the tasks by what they train, and the corpora that they draw. Only `concord train` imports from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.methods.training.trainer import Task


def all_tasks() -> dict[str, type[Task]]:
    """Every training task by name, in the order of `make train`."""
    from concord.methods.training import faces as f
    from concord.methods.training import generators as g
    from concord.methods.training import judges as j
    from concord.methods.training import layout_judges as lj
    from concord.methods.training import layouts as la
    from concord.methods.training import multi_task as m
    from concord.methods.training import single_task as st
    from concord.methods.training import stylegan as s

    tasks: tuple[type[Task], ...] = (
        g.TrainAutoencoder,
        j.TrainParserJudge,
        j.TrainFeaturesJudge,
        j.TrainTextImageJudge,
        f.TrainIdentityJudge,
        f.TrainLandmarksJudge,
        g.TrainUnconditional,
        g.TrainMask,
        g.TrainText,
        g.TrainDynamicDiffusers,
        m.TrainMultiTask,
        m.TrainPaperWeights,
        st.TrainUnconditional,
        st.TrainClassConditional,
        st.TrainSegmentation,
        st.TrainClassifier,
        st.TrainMultiTaskGeneration,
        st.TrainMultiTaskClassifier,
        st.TrainMultiTaskSegmentation,
        j.TrainParserGuide,
        j.TrainFeaturesGuide,
        j.TrainTextImageGuide,
        f.TrainIdentityGuide,
        f.TrainLandmarksGuide,
        s.TrainStyleGAN,
        s.TrainMaskToCode,
        s.TrainTextToCode,
        lj.TrainSceneDetector,
        lj.TrainSceneSegmenter,
        lj.TrainSceneInteractions,
        la.TrainScenesAutoencoder,
        la.TrainTrunk,
        la.TrainInteraction,
        la.TrainAttribute,
        la.TrainStyle,
    )
    return {task.name: task for task in tasks}


def get_task(name: str) -> type[Task]:
    """The task of that name; raises ConcordError with the known names otherwise."""
    tasks = all_tasks()
    if name not in tasks:
        raise ConcordError(f"unknown network '{name}': expected one of {', '.join(tasks)}")
    return tasks[name]
