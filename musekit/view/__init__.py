"""What is seen of the Studio, the Lab and the Library: thin widgets over `studio`, `lab` and `library`.

No tensor arithmetic here. Every text that a person may have written is escaped or set as a widget's plain value;
whatever takes long runs in a job's thread; every control has a class (`muse-...`) by which a test finds it.
"""
