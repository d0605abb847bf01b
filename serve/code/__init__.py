"""Code analysis: `/code/v1`. Submitted code goes through three steps, each a short job; facts stand beside what a model says.

intake        what may be submitted: files, a patch's result, sizes, names
routes        the HTTP edge
steps         the jobs: forensic, rebuild, quality
asking        one question to a model through the gateway: checked, asked again at most twice, every answer kept
prompts       what a model is told; all that others wrote lies in one delimited block
answers       what a model must answer, and what is made of half an answer
step_config   prompt, model, fallback and parameters of a step
report        dossier, measured difference, rating
"""
