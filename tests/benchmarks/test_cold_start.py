from benchmarks.cold_start import main


def test_refuses(tmp_path, capsys):
    arguments = ["--dataset", "office", "--data", str(tmp_path), "--cold", "newest:0.02"]
    assert main(arguments) == 2
    assert "interactions.csv" in capsys.readouterr().err
    assert main([*arguments[:-1], "latest:1"]) == 2
    assert "newest:SHARE or rarest:SHARE" in capsys.readouterr().err
