"""
>>> 1 + 1
2
"""


def wrong():
    """
    >>> 1 + 1
    3
    """


def raises():
    """
    >>> 1 / 0
    """


def expects():
    """
    >>> 1 / 0
    Traceback (most recent call last):
    ...
    ZeroDivisionError: division by zero
    """


def skipped():
    """
    >>> 1 + 1  # doctest: +SKIP
    3
    """


def uses_fixture():
    """
    >>> path = getfixture("tmp_path")
    >>> path.exists()
    True
    """
