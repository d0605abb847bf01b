"""The words that `generate.py` composes support messages from. Data only; `{p}` stands for the product."""

PRODUCT_TEAMS = {
    "Atlas": "mobile",
    "Beacon": "platform",
    "Cobalt": "data",
    "Drift": "media",
    "Ember": "devices",
    "Fjord": "platform",
    "Glint": "media",
    "Harbor": "mobile",
    "Ion": "devices",
    "Juno": "data",
}
"""Product -> the engineering team that builds it."""

PROBLEMS = {
    "refund": [
        "I want my money back for {p}",
        "please return the payment I made for {p}",
        "I was charged twice for {p} and would like one charge reversed",
        "{p} is not what was advertised, so please refund me",
        "how do I get a refund for {p}",
        "the trial of {p} ended and you still took money, give it back",
        "I would like to be reimbursed for {p}",
        "send the amount I paid for {p} back to my card",
        "we paid for {p} by mistake and ask for reimbursement",
        "a duplicate payment for {p} left my account and I want it returned",
    ],
    "invoice": [
        "the invoice for {p} shows the wrong company name",
        "I cannot find last month's invoice for {p}",
        "our accountant needs a receipt for {p}",
        "the tax number on the {p} bill is missing",
        "could you explain the second line on my {p} invoice",
        "please send the {p} bills to another address",
        "we need a corrected invoice for {p} with our new address",
        "why is the {p} bill higher than the quote",
        "where do I download receipts for {p}",
        "the VAT on our {p} statement does not add up",
    ],
    "cancel": [
        "I want to cancel {p}",
        "please end my {p} subscription",
        "we will not renew {p}",
        "stop the plan for {p} at the end of the month",
        "I no longer need {p}, please close the contract",
        "how can I unsubscribe from {p}",
        "terminate our agreement for {p}",
        "we are moving to a competitor and leave {p}",
        "take me off the {p} plan",
        "do not extend {p} any further",
    ],
    "login": [
        "I cannot log in to {p}",
        "{p} says my password is wrong",
        "the reset mail for {p} never arrives",
        "I am locked out of my {p} account",
        "the two factor code for {p} is not accepted",
        "single sign on to {p} fails for all of us",
        "my {p} account is blocked after too many attempts",
        "I lost my phone and cannot confirm the {p} sign in",
        "{p} does not recognise my user name",
        "how do I recover access to my {p} account",
    ],
    "bug": [
        "{p} crashes when I press save",
        "{p} shows an error 500 on the start page",
        "the export of {p} contains empty columns",
        "since the last update {p} freezes",
        "{p} loses my settings after every restart",
        "a button in {p} does nothing",
        "{p} displays the wrong time zone",
        "the search in {p} returns nothing at all",
        "{p} stops with an exception",
        "half of the entries in {p} have disappeared",
    ],
    "slow": [
        "{p} is very slow",
        "{p} takes minutes to load",
        "everything in {p} lags",
        "the response time of {p} got much worse",
        "{p} needs ages to open a page",
        "the performance of {p} is terrible",
        "{p} crawls as soon as more people use it",
        "we wait forever for {p} to answer",
        "requests to {p} time out under load",
        "{p} was fast before and now it drags",
    ],
    "setup": [
        "how do I install {p}",
        "we need help with setting up {p}",
        "what is the first step to configure {p}",
        "I just bought {p} and do not know where to begin",
        "which ports must be open to connect {p}",
        "is there a guide for the installation of {p}",
        "can somebody walk us through the first start of {p}",
        "how can I connect {p} to our network",
        "{p} is new here and must be configured for ten people",
        "I am stuck in the setup wizard of {p}",
    ],
    "feature": [
        "it would be great if {p} had a dark mode",
        "please add a calendar view to {p}",
        "are there plans to support Spanish in {p}",
        "I miss keyboard shortcuts in {p}",
        "could {p} offer an export to PDF in the future",
        "we suggest an offline mode for {p}",
        "my wish for {p} is a shared folder",
        "will {p} ever integrate with our chat tool",
        "{p} should let us sort by colour, please consider it",
        "an idea for {p}: let users pin their favourites",
    ],
}

SUMMARIES = {
    "refund": ["a refund for {p}", "money back for {p}", "a payment for {p} to be returned"],
    "invoice": ["help with an invoice for {p}", "a question on a {p} bill", "a {p} receipt"],
    "cancel": ["to cancel {p}", "to end the {p} subscription", "to leave {p}"],
    "login": ["help with the login to {p}", "access to a {p} account", "to sign in to {p} again"],
    "bug": ["a fix for a bug in {p}", "an error in {p} repaired", "a defect in {p} looked at"],
    "slow": ["a slow {p} looked at", "better performance of {p}", "{p} to answer faster"],
    "setup": ["help with the setup of {p}", "to install {p}", "a hand with configuring {p}"],
    "feature": ["a new feature in {p}", "something added to {p}", "an idea for {p} considered"],
}
"""What an agent says the customer wants: the corpus holds it in words, never as labels."""

WANTS = ["You want {wants}.", "So this is about {wants}.", "I understand that you need {wants}."]

ROUTES = [
    "I pass it to the {team} team.",
    "The {team} team takes care of it.",
    "Our {team} team will write to you.",
    "This goes to {team}.",
]
"""Where an agent sends a message; not always with the product named before, so the message must be read."""

URGENCY = {
    "high": [
        "this is urgent",
        "we lose money every minute",
        "I need this solved within the hour",
        "our whole shop stands still",
        "please call me back immediately",
        "nobody here can work",
        "it is an emergency",
        "the board meets in thirty minutes",
        "every customer of ours is affected right now",
        "this cannot wait until tomorrow",
        "answer at once please",
        "we have a hard deadline tonight",
    ],
    "normal": [
        "please look into it this week",
        "a reply in the next days would be good",
        "tomorrow would be fine",
        "I hope to hear from you soon",
        "we would like it settled by Friday",
        "please get back to me in the usual time",
        "let me know in a day or two",
        "it bothers us, though we can work around it for now",
        "an answer by the end of the week is enough",
        "please handle it in the normal order",
        "",
        "",
    ],
    "low": [
        "no rush",
        "whenever you find the time",
        "this is not important",
        "I am only curious",
        "take as long as you need",
        "there is no hurry at all",
        "next month is early enough",
        "just a small remark",
        "it can wait",
        "put it at the bottom of your list",
        "it does not bother us much",
        "answer when things are quiet",
    ],
}

PROMISES = {
    "high": [
        "This is urgent, so somebody looks at it right now.",
        "That has high priority and we begin at once.",
        "We treat this as an emergency.",
    ],
    "normal": [
        "We look into it in the normal order.",
        "You will hear from us this week.",
        "It has normal priority.",
    ],
    "low": [
        "As there is no hurry, we come back to you later.",
        "It has low priority, as you say.",
        "We keep it for a quiet day.",
    ],
}

OPENERS = [
    "Hello",
    "Hi there",
    "Good morning",
    "Dear team",
    "Hey",
    "Hi",
    "Good evening",
    "To whom it may concern",
    "Hello support",
    "",
    "",
]

CONTEXTS = [
    "we have used it for two years",
    "I am new here",
    "I already restarted the computer",
    "my colleague said you could help",
    "I wrote to you last month",
    "we are a small office",
    "we are twelve people",
    "I work from home",
    "I read the manual twice",
    "we are on the business plan",
]

NAMES = ["Mara", "Jonas", "Priya", "Tom", "Lena", "Ibrahim", "Chloe", "Mateo", "Yuki", "Olga", "Sam", "Noor"]
CLOSERS = ["Thanks", "Regards", "Best", "Kind regards", "Cheers", "Thank you"]

NOTES = [
    "Note: {p} is built by the {team} team.",
    "Reminder: faults in {p} go to {team}.",
    "Who looks after {p}? The {team} team does.",
]
"""What agents write to each other about a product and the team that builds it."""

LOG_LINES = [
    '{{"level":"{level}","code":{code},"product":"{p}"}}',
    '{{"status":"{level}","retries":{code}}}',
    '{{"user":"{name}","last_seen":{code}}}',
    '{{"region":"{region}","host":"{p}","latency":{code}}}',
]
"""What customers paste from a console; so the corpus holds some JSON, though none in the form of the answer."""
