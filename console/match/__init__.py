"""`concord match`: before go-live, what is on both sides already is paired (DESIGN §4.7).

    concord match                    reads only: pairs, duplicates, candidates, and what going live would overwrite
    concord match -o matches.csv     the same as a file in which a person decides; run again, it keeps what was decided
    concord match --accept FILE      what was accepted becomes links in `concord.key` of every database, where the first snapshot finds them

census.py    rows through the mapping     exact.py       same match value            likeness: text.py, evidence.py, blocking.py, alike.py
pairing.py   all of it, for each entity   foretold.py    what would be overwritten   report.py, file.py    for people        accept.py
"""
