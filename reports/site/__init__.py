"""The parts of the HTML report: pictures in sheets, the viewer's data, claims, and the pages of methods and papers."""
