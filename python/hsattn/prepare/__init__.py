"""What `hsattn prepare` and `hsattn tokenizer train` leave to Python. Needs no torch.

    python -m hsattn.prepare read PATH [--rows documents|lines] [--after POSITION]
    python -m hsattn.prepare train --vocabulary N --out tokenizer.json

`read` opens archives, compressed files and Parquet and streams what is in them, as frames, to the program; `train`
takes texts from the program and makes a tokenizer of them. Both talk to it through stdout and stdin (`frames.py`).
"""
