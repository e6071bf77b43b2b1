"""One of two processes that save checkpoints, are preempted, and restore.

    python -m tests.training.two_processes WORKDIR ADDRESS PROCESS

A run that was resumed after step 1000 saves after steps 1002 and 1005. Process 1 gets SIGTERM right
after the second save and cannot read step 1005 afterwards. It prints the step it stopped at and the
step it restored.
"""

import json
import os
import pathlib
import signal
import sys
import time

import jax.numpy as jnp
import numpy as np

from jaxseg.distributed import connect, process_index
from jaxseg.parallel import pmap_step, to_global
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.preemption import handle_signals
from jaxseg.training.step import TrainState, share_notice


class PartlyReadable(Checkpoints):
    """Checkpoints of which process 1 cannot read step 1005."""

    def _read(self, step, **items):
        if process_index() == 1 and step == 1005:
            raise ValueError("checksum mismatch")
        return super()._read(step, **items)


def state_after(step):
    return TrainState(jnp.asarray(step), {"w": jnp.ones(4)}, {}, (), None)


def main(workdir, address, process):
    connect(address, 2, int(process))
    stopped, step = None, pmap_step(share_notice(lambda state, batch: (state, {})), 2)
    with handle_signals() as notice, PartlyReadable(pathlib.Path(workdir)) as checkpoints:
        for done in range(1001, 1010):
            flags = np.full(1, bool(notice.reason), np.int32)
            _, (_, noticed) = step(jnp.zeros(()), (flags, flags))
            if notice.reached(noticed):
                stopped = done
                break
            if done in (1002, 1005):
                checkpoints.save(done, to_global(state_after(done), 2), {})
            if done == 1005 and process_index() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if done == 1005:
                time.sleep(1)
        checkpoints.wait_until_finished()
        restored = int(checkpoints.restore(state_after(0)).step)
    if process_index() == 1:
        print(json.dumps({"stopped": stopped, "restored": restored}))


if __name__ == "__main__":
    main(*sys.argv[1:])
