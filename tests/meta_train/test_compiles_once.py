"""A long meta-training run compiles what it computes at its beginning, and never again."""

import jax
import small_run

from comm_lopt.meta_train.log import MetaTrainLog

NUM_META_STEPS = 12
COMPILED = "/jax/core/compile/backend_compile_duration"


def test_nothing_is_compiled_after_the_first_meta_steps(tmp_path, monkeypatch, ordinary_promotion):
    compiled, by_meta_step = [], []
    write = MetaTrainLog.write

    def write_and_count(self, *arguments):
        write(self, *arguments)
        by_meta_step.append(len(compiled))

    def listen(event, seconds, **_):
        if event == COMPILED:
            compiled.append(seconds)

    monkeypatch.setattr(MetaTrainLog, "write", write_and_count)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        # Tasks start afresh in between, and checkpoints are saved.
        small_run.run(tmp_path, f"num_meta_steps = {NUM_META_STEPS}")
    finally:
        jax.monitoring.clear_event_listeners()
    assert len(by_meta_step) == NUM_META_STEPS
    assert by_meta_step[0] > 0
    # The first save, and the first metrics of a task that has started afresh, may add some.
    assert by_meta_step[3:] == [by_meta_step[3]] * (NUM_META_STEPS - 3)
