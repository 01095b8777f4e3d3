import io
import logging

from store_engine.serving.batch.ray_data import _quieten


class Kept(logging.Handler):
    """As Ray Data's own, which writes to the files of the session."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def test_of_ray_datas_lines_warnings_come_through_and_all_are_kept(monkeypatch):
    logger, console, kept = logging.getLogger("ray.data"), io.StringIO(), Kept()
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(console), kept])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()
    _quieten()
    lines = [
        (logging.INFO, "Starting execution of Dataset"),
        (logging.WARNING, "Progress bars disabled. To enable, set"),
        (logging.WARNING, "an actor is slow"),
        (logging.ERROR, "an actor is lost"),
    ]
    for level, line in lines:
        logger.log(level, line)
    assert console.getvalue() == "an actor is slow\nan actor is lost\n"
    assert kept.lines == [line for _, line in lines]
