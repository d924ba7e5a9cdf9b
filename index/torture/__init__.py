"""Does a store keep its promises on a disk that fails, loses its power, or turns its bits?

python -m index.torture faults   every file and database call of a history fails once
python -m index.torture power    the power goes after every write, sync and rename
python -m index.torture damage   flipped bits and cut ends in every file
"""
