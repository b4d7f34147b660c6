//! The people who ask for a quote in the demo, in the order in which they are posted, and what must become of each.

use crate::model::delivery::{DeliveryState, ShutReason, Verdict};
use crate::model::lead::{LeadReason, LeadStatus};

/// One post of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoLead {
    /// Its file in `fixtures/demo`.
    pub file: &'static str,
    /// What it shows, in one phrase.
    pub shows: &'static str,
    /// The media type of its body.
    pub content_type: &'static str,
    /// The file's bytes.
    pub body: &'static [u8],
    /// Whether the source waits for the outcome (`Prefer: wait=5`). It must not where the outcome is long in coming.
    pub waits: bool,
    /// What must become of it.
    pub expected: Expected,
}

/// What must become of a post, once all is quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The status of the answer to the post.
    pub status_code: u16,
    /// Where the lead stands in the end; `None` = no lead was made of it.
    pub lead: Option<LeadStatus>,
    /// Why, as its source sees it.
    pub reason: Option<LeadReason>,
    /// Fields named in the answer's `errors`, in alphabetical order.
    pub wrong_fields: &'static [&'static str],
    /// Its deliveries, in the order in which they were made.
    pub deliveries: &'static [ExpectedDelivery],
}

impl Expected {
    /// The delivery that the lead's fate hangs on: the last.
    pub fn delivery(&self) -> Option<&'static ExpectedDelivery> {
        self.deliveries.last()
    }
}

/// One delivery of a lead, at its end or where it comes to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedDelivery {
    /// Its contract.
    pub contract: &'static str,
    /// Where it stands.
    pub state: DeliveryState,
    /// Its last attempt's.
    pub verdict: Option<Verdict>,
    /// How many it took.
    pub attempts: u32,
    /// Why it waits, or why it was passed over.
    pub shut: Option<ShutReason>,
}

/// The media type of most.
const JSON: &str = "application/json";

/// Every post, in order: later ones build on earlier ones (the limit of two, the duplicate).
pub static LEADS: &[DemoLead] = &[
    DemoLead {
        shows: "sold by SOAP 1.2",
        expected: sold(&[accepted("brightroof-solar", 1)]),
        ..json("01-soap12.json", include_bytes!("../../../fixtures/demo/01-soap12.json"))
    },
    DemoLead {
        shows: "sold by JSON",
        expected: sold(&[accepted("solarnow-solar", 1)]),
        ..json("02-json.json", include_bytes!("../../../fixtures/demo/02-json.json"))
    },
    DemoLead {
        shows: "posted as a form, sold by form POST",
        content_type: "application/x-www-form-urlencoded",
        expected: sold(&[accepted("leadhouse-solar", 1)]),
        ..json("03-form.form", include_bytes!("../../../fixtures/demo/03-form.form"))
    },
    DemoLead {
        shows: "posted as XML, sold by XML",
        content_type: "application/xml",
        expected: sold(&[accepted("greenquote-solar", 1)]),
        ..json("04-xml.xml", include_bytes!("../../../fixtures/demo/04-xml.xml"))
    },
    DemoLead {
        shows: "sold by SOAP 1.1",
        expected: sold(&[accepted("slate-sons-solar", 1)]),
        ..json("05-soap11.json", include_bytes!("../../../fixtures/demo/05-soap11.json"))
    },
    DemoLead {
        shows: "sold by GET",
        expected: sold(&[accepted("leadhouse-callback", 1)]),
        ..json("06-get.json", include_bytes!("../../../fixtures/demo/06-get.json"))
    },
    DemoLead {
        shows: "the first partner has this person already: sold to the next",
        expected: sold(&[
            refused("brightroof-solar", DeliveryState::Duplicate, Verdict::Duplicate),
            accepted("solarnow-solar", 1),
        ]),
        ..json("07-known-to-partner.json", include_bytes!("../../../fixtures/demo/07-known-to-partner.json"))
    },
    DemoLead {
        shows: "a hostile name reaches the strictest partner unharmed",
        expected: sold(&[accepted("brightroof-solar", 1)]),
        ..json("08-hostile-name.json", include_bytes!("../../../fixtures/demo/08-hostile-name.json"))
    },
    DemoLead {
        shows: "over the first partner's daily limit: sold to the next",
        expected: sold(&[passed_over("brightroof-solar", ShutReason::Full), accepted("solarnow-solar", 1)]),
        ..json("09-over-limit.json", include_bytes!("../../../fixtures/demo/09-over-limit.json"))
    },
    DemoLead {
        shows: "refused by the first partner: sold to the next",
        expected: sold(&[
            refused("greenquote-solar", DeliveryState::Rejected, Verdict::Rejected),
            accepted("leadhouse-solar", 1),
        ]),
        ..json("10-refused-then-sold.json", include_bytes!("../../../fixtures/demo/10-refused-then-sold.json"))
    },
    DemoLead {
        shows: "the partner answers 503 at first: tried again after a second, and sold",
        waits: false,
        expected: Expected { status_code: 202, ..sold(&[accepted("solarnow-solar", 2)]) },
        ..json("11-partner-busy.json", include_bytes!("../../../fixtures/demo/11-partner-busy.json"))
    },
    DemoLead {
        shows: "the partner never answers: unknown, for a person to decide, and sent to nobody else",
        waits: false,
        expected: pending(&[ExpectedDelivery {
            contract: "slate-sons-solar",
            state: DeliveryState::Unknown,
            verdict: Some(Verdict::Unknown),
            attempts: 1,
            shut: None,
        }]),
        ..json("12-partner-silent.json", include_bytes!("../../../fixtures/demo/12-partner-silent.json"))
    },
    DemoLead {
        shows: "outside the partner's hours: held until it opens",
        expected: pending(&[ExpectedDelivery {
            contract: "slate-sons-thatch",
            state: DeliveryState::Queued,
            verdict: None,
            attempts: 0,
            shut: Some(ShutReason::Closed),
        }]),
        ..json("13-out-of-hours.json", include_bytes!("../../../fixtures/demo/13-out-of-hours.json"))
    },
    DemoLead {
        shows: "a duplicate of the first: the campaign has this person",
        expected: Expected {
            lead: Some(LeadStatus::Rejected),
            reason: Some(LeadReason::Duplicate),
            ..answered(200, &[])
        },
        ..json("14-duplicate.json", include_bytes!("../../../fixtures/demo/14-duplicate.json"))
    },
    DemoLead {
        shows: "invalid: every wrong field is named at once",
        expected: Expected {
            wrong_fields: &[
                "birth_date",
                "email",
                "first_name",
                "homeowner",
                "monthly_bill",
                "phone",
                "postcode",
                "roof_type",
            ],
            ..answered(422, &[])
        },
        ..json("15-invalid.json", include_bytes!("../../../fixtures/demo/15-invalid.json"))
    },
    DemoLead {
        shows: "nobody buys there: unsold, with each contract's reason",
        expected: Expected { lead: Some(LeadStatus::Unsold), reason: Some(LeadReason::NoBuyer), ..answered(200, &[]) },
        ..json("16-no-buyer.json", include_bytes!("../../../fixtures/demo/16-no-buyer.json"))
    },
];

/// A post in JSON whose source waits.
const fn json(file: &'static str, body: &'static [u8]) -> DemoLead {
    DemoLead { file, shows: "", content_type: JSON, body, waits: true, expected: answered(200, &[]) }
}

const fn answered(status_code: u16, deliveries: &'static [ExpectedDelivery]) -> Expected {
    Expected { status_code, lead: None, reason: None, wrong_fields: &[], deliveries }
}

const fn sold(deliveries: &'static [ExpectedDelivery]) -> Expected {
    Expected { lead: Some(LeadStatus::Sold), ..answered(200, deliveries) }
}

const fn pending(deliveries: &'static [ExpectedDelivery]) -> Expected {
    Expected { lead: Some(LeadStatus::Pending), ..answered(202, deliveries) }
}

const fn accepted(contract: &'static str, attempts: u32) -> ExpectedDelivery {
    ExpectedDelivery {
        contract,
        state: DeliveryState::Accepted,
        verdict: Some(Verdict::Accepted),
        attempts,
        shut: None,
    }
}

const fn refused(contract: &'static str, state: DeliveryState, verdict: Verdict) -> ExpectedDelivery {
    ExpectedDelivery { contract, state, verdict: Some(verdict), attempts: 1, shut: None }
}

const fn passed_over(contract: &'static str, shut: ShutReason) -> ExpectedDelivery {
    ExpectedDelivery { contract, state: DeliveryState::Skipped, verdict: None, attempts: 0, shut: Some(shut) }
}
