"""The examples under deploy/: what can be checked without Docker and Kubernetes."""

import dataclasses
import re
from pathlib import Path

import pytest

from store_engine.serving.settings import ServeSettings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_ray_service_names_what_there_is():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (service,) = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    module, _, name = application["import_path"].partition(":")
    source = Path(__file__).parents[2] / f"{module.replace('.', '/')}.py"
    assert f"\ndef {name}(args:" in source.read_text()
    arguments = application["args"].keys() - {"run", "token_file"}
    assert arguments <= {declared.name for declared in dataclasses.fields(ServeSettings)}
    cluster = service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_dockerfile_is_one():
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL"}
    assert {name for name, _ in steps} <= known | {"ENTRYPOINT", "CMD"}
    assert steps[0][0] == "FROM"
    stages = [rest.split(" AS ")[1] for name, rest in steps if name == "FROM" and " AS " in rest]
    for name, rest in steps:
        if name == "COPY" and (stage := re.match(r"--from=(\w+)", rest)):
            assert stage[1] in stages
    command = [rest for name, rest in steps if name in ("ENTRYPOINT", "CMD")]
    assert all(rest.startswith("[") for rest in command)  # a shell would not pass SIGTERM on
    assert [rest for name, rest in steps if name == "USER"] != ["root"]
