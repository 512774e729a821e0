"""What an image can be asked to agree with: one condition, one file, found by looking.

`base` says what a condition is: how it is read, checked, written into an exchange folder and drawn. To add one, add its
file; methods and suites name it in their `conditions`. Others reach conditions through `concord.data.request`.
"""
