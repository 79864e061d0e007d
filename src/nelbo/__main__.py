"""`python -m nelbo` is the command `nelbo`."""

if __name__ == "__main__":
    from nelbo.cli.main import run

    run()
