"""The errors of data/errors.py, under the name they had."""

from data.errors import UserError as UserError
from data.errors import describe as describe
