from regraft.cli import main

main(prog_name="regraft")
