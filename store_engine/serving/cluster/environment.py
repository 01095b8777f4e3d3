"""What Ray reads from the environment when it is imported and when it starts its processes."""

import os

_OURS = {
    "RAY_worker_niceness": "0",  # else 15: engines would wait for whatever else there is to do
    "RAY_SERVE_LOG_TO_STDERR": "0",  # its processes have files for that
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # half of what a call costs by Ray's object store
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",  # of a busy machine; else warnings
}


def set_for_ray(*, is_verbose: bool = False) -> None:
    """Sets what the user has not set; before Ray is imported.

    Args:
        is_verbose: Let the processes of Ray Serve write to stderr too.
    """
    ours = _OURS | ({"RAY_SERVE_LOG_TO_STDERR": "1"} if is_verbose else {})
    for name, value in ours.items():
        os.environ.setdefault(name, value)
