"""The pages of the report, plain HTML that loads nothing from elsewhere: overview, suites, methods, papers, the
viewer.

`page` and `html` are what all pages share, `tiles` and `samples` the images in sheets, `viewer` the data of the
viewer, `claims` the papers' claims, `facts` what is said of machine and weights. The verbs import `html.write_report`
from here.
"""
