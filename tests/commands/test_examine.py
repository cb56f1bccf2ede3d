"""`tlg doctor` names what is missing, with a remedy, whatever is broken."""

import errno
import shutil
import sys
import tempfile
from importlib import metadata

import pytest

from tlg_lib import cli
from tlg_lib.commands import examine as doctor
from tlg_lib.commands.examine import NOTE, OK, PROBLEM, examine
from tlg_lib.errors import TLGError


def run_doctor(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        cli.main(["doctor", *arguments])
    streams = capsys.readouterr()
    return exit.value.code, streams.out, streams.err


def by_area(findings, area, state=None):
    return [f for f in findings if f.area == area and state in (None, f.state)]


def test_this_environment_runs_mini(own_home, capsys):
    code, out, err = run_doctor(capsys)
    assert code == 0, out + err
    for area in doctor.CHECKS:
        assert f"\n{area}\n" in out
    assert "checksum right" in out and "no mini in" in out and "-> tlg data mini" in out
    assert not own_home.exists(), "looking made folders"


def test_everything_that_is_not_well_has_a_remedy(own_home):
    findings = examine()
    assert findings and all(f.remedy for f in findings if f.state == PROBLEM)
    assert all(f.remedy for f in findings if f.state == NOTE and f.area != "cluster")


def test_a_check_that_breaks_is_a_problem_and_the_others_still_run(monkeypatch, capsys):
    def broken():
        raise ZeroDivisionError("made to fail")
        yield

    def refused():
        raise TLGError("weights of X are damaged: reinstall them", code=3)
        yield

    monkeypatch.setattr(doctor, "CHECKS", {"one": broken, "two": refused, "three": doctor.cluster})
    findings = examine()
    assert [(f.area, f.state) for f in findings][:2] == [("one", PROBLEM), ("two", PROBLEM)] and len(findings) == 3
    assert findings[1].text == "weights of X are damaged" and findings[1].remedy == "reinstall them"
    code, out, err = run_doctor(capsys)
    assert code == 3 and "error: 2 problems found" in err and "-> reinstall them" in out


def test_missing_and_old_packages_are_named(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "scipy" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    problems = [f for f in doctor.versions() if f.state == PROBLEM]
    assert len(problems) == 2
    assert any("timm is not installed" in f.text and "pip install 'timm" in f.remedy for f in problems)
    assert any("scipy 0.0.1, needs" in f.text for f in problems)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_damaged_weights_are_found(monkeypatch, tmp_path, name):
    from tlg_lib.machine import weights

    real, good = weights.pip_weights_file, weights.pip_weights_file(name)
    bad = tmp_path / good.name
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    bad.write_bytes(bytes(content))
    monkeypatch.setattr(weights, "pip_weights_file", lambda asked: bad if asked == name else real(asked))
    monkeypatch.setattr(doctor, "CHECKS", {"weights": doctor.weights})
    findings = examine()
    assert findings[-1].state == PROBLEM and "SHA-256" in findings[-1].text and "reinstall" in findings[-1].remedy


def test_the_core_without_jupyter_is_no_problem(monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyter_client.kernelspec", None)  # as where no extra was installed
    (finding,) = doctor.notebooks()
    assert finding.state == NOTE and finding.remedy == "pip install 'tlg-lib[notebooks]'"


def test_a_damaged_network_for_photographs_is_found(monkeypatch, tmp_path):
    from tlg_lib import predict

    content = bytearray(predict.PHOTO.read_bytes())
    content[-1] ^= 1
    bad = tmp_path / "weights.safetensors"
    bad.write_bytes(bytes(content))
    monkeypatch.setattr(predict, "PHOTO", bad)
    monkeypatch.setattr(doctor, "CHECKS", {"weights": doctor.weights})
    findings = examine()
    assert [f.state for f in findings] == [OK, OK, OK, PROBLEM] and "checksum differs" in findings[-1].text


def test_a_folder_without_room_or_rights_is_a_problem(own_home, monkeypatch):
    own_home.mkdir()
    assert [f.state for f in doctor.folders()] == [OK] * 4
    usage = shutil.disk_usage(own_home)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=10 << 20))
    full = list(doctor.folders())[1:]
    assert {f.state for f in full} == {PROBLEM} and all("free 3 GB" in f.remedy for f in full)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", read_only)
    assert all("cannot be written (Read-only file system)" in f.text for f in list(doctor.folders())[1:])


def test_data_is_counted_where_it_lies(own_home, tiny_voc):
    root = own_home / "data" / "voc"
    shutil.copytree(tiny_voc, root)
    line = [f for f in doctor.data() if "Pascal" in f.text]
    assert line[0].state == OK and "80 images, 80 label maps, 120 pseudo masks" in line[0].text
    shutil.rmtree(root / "PseudoMasks")
    line = [f for f in doctor.data() if "Pascal" in f.text]
    assert line[0].state == NOTE and "tlg masks make" in line[0].remedy
    shutil.rmtree(root / "SegmentationClassAug")
    assert [f for f in doctor.data() if "Pascal" in f.text][0].state == PROBLEM


def test_a_hidden_gpu_is_a_problem(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor.Path, "exists", lambda self: True)
    assert any(f.state == PROBLEM and "CUDA build" in f.remedy for f in doctor.device())


def test_gradients_prints_the_networks_report(monkeypatch, capsys):
    from tlg_lib.released import gradients

    monkeypatch.setattr(gradients, "print_report", lambda variant, backbone: print(f"report of {variant}, {backbone}"))
    code, out, _ = run_doctor(capsys, "--gradients", "released", "--backbone", "vgg16")
    assert code == 0 and out.strip() == "report of released, vgg16"


def test_gradients_of_an_unknown_variant_is_one_line(capsys):
    code, _, err = run_doctor(capsys, "--gradients", "nonsense")
    assert code == 2 and err.strip().startswith("error: unknown variant 'nonsense'") and err.count("\n") == 1
