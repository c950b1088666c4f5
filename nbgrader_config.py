"""nbgrader's configuration: solutions/ is the source, exercises/ what students get, submitted/ what comes back."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # where grader/ is

c = get_config()  # noqa: F821  (traitlets puts it there)

c.CourseDirectory.course_id = "beyond-the-gradient"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.ClearSolutions.text_stub = "*Write your derivation here.*"

# nbgrader's own list, but for the run, which is in our sandbox, and for our judge between the run and the grades: a
# probe that did not raise is not yet right. docs/threats.md says what that keeps out.
c.Autograde.autograde_preprocessors = [
    "grader.autograde.SandboxExecute",
    "grader.autograde.JudgeProbes",
    "grader.autograde.NeutralText",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
