//! The networks that are measured: limits and weekly hours on every partner and contract, far from full and always open,
//! so that each lead pays for asking.

use std::fmt::Write as _;

/// How a partner wants its leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object of some twenty fields, judged by a JSONPath.
    Json,
    /// SOAP 1.2 of some 3 KB, judged by an XPath.
    Soap,
}

/// The key of the source `ID`.
pub fn key(source: &str) -> String {
    format!("bench-key-of-{source}-000000")
}

/// Where a campaign's leads are posted.
pub fn path(campaign: &str) -> String {
    format!("/v1/campaigns/{campaign}/leads")
}

/// A campaign with one source; both have the same id. The introducer `media` is of [`introducer`].
pub fn campaign(id: &str) -> String {
    format!(
        r#"
[[campaign]]
id = "{id}"
timezone = "Europe/London"
currency = "GBP"
[campaign.fields]
first_name = {{ type = "text", max = 80 }}
last_name = {{ type = "text", max = 80 }}
email = {{ type = "email", required = true }}
phone = {{ type = "phone", required = true, region = "GB" }}
postcode = {{ type = "postcode", country = "GB" }}
address_1 = {{ type = "text" }}
city = {{ type = "text" }}
county = {{ type = "text" }}
birth_date = {{ type = "date", sensitive = true }}
homeowner = {{ type = "boolean" }}
property_type = {{ type = "one_of", values = ["detached", "semi_detached", "terraced", "flat"] }}
bedrooms = {{ type = "integer", min = "0", max = "50" }}
roof = {{ type = "one_of", values = ["pitched", "flat", "unknown"], default = "unknown" }}
monthly_bill = {{ type = "decimal", min = "0" }}
battery_wanted = {{ type = "boolean" }}
best_time = {{ type = "text" }}
comments = {{ type = "text" }}
consent = {{ type = "text" }}
consent_at = {{ type = "text" }}
landing_page = {{ type = "url" }}
region = {{ type = "text" }}
posted = {{ type = "text" }}

[[source]]
id = "{id}"
campaign = "{id}"
partner = "media"
key = "{}"
payout = "12.50"
limits = {{ daily = 1000000000, monthly = 10000000000 }}
"#,
        key(id)
    )
}

/// Who the sources belong to.
pub fn introducer() -> String {
    "\n[[partner]]\nid = \"media\"\nkind = \"introducer\"\ntimezone = \"Europe/London\"\n".to_owned()
}

/// A buyer.
pub fn buyer(id: &str) -> String {
    format!(
        r#"
[[partner]]
id = "{id}"
kind = "buyer"
timezone = "Europe/London"
limits = {{ daily = 1000000000, monthly = 10000000000 }}
schedule = {{ mon-sun = "00:00-24:00" }}
"#
    )
}

/// A contract of a buyer on a campaign.
pub struct Contract<'a> {
    pub id: &'a str,
    pub partner: &'a str,
    pub campaign: &'a str,
    pub url: &'a str,
    pub format: Format,
    /// Attempts at the same time.
    pub concurrency: u32,
    /// The only region that it takes.
    pub region: Option<u64>,
}

impl Contract<'_> {
    pub fn toml(&self) -> String {
        let Self { id, partner, campaign, url, concurrency, .. } = self;
        let mut text = format!(
            r#"
[[contract]]
id = "{id}"
partner = "{partner}"
campaign = "{campaign}"
price = "31.00"
limits = {{ daily = 1000000000, monthly = 10000000000 }}
schedule = {{ mon-sun = "00:00-24:00" }}
when_paused = "hold"
"#
        );
        if let Some(region) = self.region {
            let _ = writeln!(text, "filters = {{ field = \"region\", equals = \"r{region:03}\" }}");
        }
        let _ = match self.format {
            Format::Json => write!(
                text,
                r#"
[contract.endpoint]
method = "json"
url = "{url}"
template = "lead.json.hbs"
concurrency = {concurrency}
[contract.endpoint.response]
accepted = {{ json = "$.ok", equals = "true" }}
rejected = {{ json = "$.ok", equals = "false" }}
reason = {{ json = "$.message" }}
reference = {{ json = "$.ref" }}
"#
            ),
            Format::Soap => write!(
                text,
                r#"
[contract.endpoint]
method = "soap12"
url = "{url}"
action = "urn:SubmitLead"
template = "lead.xml.hbs"
concurrency = {concurrency}
[contract.endpoint.response]
duplicate = {{ xpath = "//Code", equals = "DUP" }}
accepted = {{ xpath = "//Status", equals = "OK" }}
rejected = {{ xpath = "//Status", one_of = ["REJECTED", "INVALID"] }}
reason = {{ xpath = "//Message" }}
reference = {{ xpath = "//LeadRef" }}
"#
            ),
        };
        text
    }
}

/// One campaign `leads`, one buyer `buyer`, one contract `buyer`.
pub fn simple(url: &str, format: Format) -> String {
    let contract =
        Contract { id: "buyer", partner: "buyer", campaign: "leads", url, format, concurrency: 256, region: None };
    [introducer(), campaign("leads"), buyer("buyer"), contract.toml()].concat()
}

/// `templates/lead.json.hbs`
pub const JSON_TEMPLATE: &str = r#"{
  "id": "{{delivery.id}}",
  "posted": "{{lead.posted}}",
  "received": "{{date meta.received_at "%Y-%m-%dT%H:%M:%S%:z"}}",
  "source": "{{source.id}}",
  "external_id": "{{meta.external_id}}",
  "customer": {
    "first_name": "{{trim lead.first_name}}",
    "last_name": "{{trim lead.last_name}}",
    "email": "{{lead.email}}",
    "phone": "{{phone lead.phone "national"}}",
    "date_of_birth": "{{date lead.birth_date "%d/%m/%Y"}}",
    "address": "{{lead.address_1}}",
    "city": "{{lead.city}}",
    "county": "{{lead.county}}",
    "postcode": "{{upper lead.postcode}}",
    "best_time": "{{lead.best_time}}"
  },
  "property": {
    "homeowner": {{json lead.homeowner}},
    "type": "{{lead.property_type}}",
    "bedrooms": {{json lead.bedrooms}},
    "roof": "{{default lead.roof "unknown"}}",
    "monthly_bill": {{json lead.monthly_bill}},
    "battery": {{json lead.battery_wanted}},
    "region": "{{lead.region}}"
  },
  "comments": "{{lead.comments}}",
  "consent": {"text": "{{lead.consent}}", "at": "{{lead.consent_at}}", "page": "{{lead.landing_page}}"},
  "price": "{{contract.price}}"
}
"#;

/// `templates/lead.xml.hbs`: the content of the SOAP body, as enterprise systems like it.
pub const SOAP_TEMPLATE: &str = r#"<SubmitLead xmlns="urn:partner:leads:1" xmlns:cmn="urn:partner:common:1">
  <Header>
    <cmn:MessageId>{{delivery.id}}</cmn:MessageId>
    <cmn:Attempt>{{attempt.number}}</cmn:Attempt>
    <cmn:Timestamp>{{date meta.received_at "%Y-%m-%dT%H:%M:%S%:z"}}</cmn:Timestamp>
    <cmn:Sender system="lead-gateway" environment="production">{{source.id}}</cmn:Sender>
    <cmn:Campaign>{{campaign.id}}</cmn:Campaign>
    <cmn:Correlation>{{meta.external_id}}</cmn:Correlation>
    <cmn:Click>{{meta.click_id}}</cmn:Click>
    <cmn:SubId>{{meta.sub1}}</cmn:SubId>
    <cmn:Posted>{{lead.posted}}</cmn:Posted>
  </Header>
  <Lead type="residential" schemaVersion="1.4">
    <Customer>
      <Name>
        <FirstName>{{title (trim lead.first_name)}}</FirstName>
        <LastName>{{title (trim lead.last_name)}}</LastName>
      </Name>
      <Contact>
        <EmailAddress verified="false">{{lower lead.email}}</EmailAddress>
        <TelephoneNumber type="mobile" format="national">{{phone lead.phone "national"}}</TelephoneNumber>
        <PreferredTime>{{default lead.best_time "any time"}}</PreferredTime>
      </Contact>
{{#if lead.birth_date}}
      <DateOfBirth>{{date lead.birth_date "%d/%m/%Y"}}</DateOfBirth>
{{/if}}
      <PostalAddress country="GB">
        <AddressLine1>{{lead.address_1}}</AddressLine1>
        <AddressLine2></AddressLine2>
        <City>{{lead.city}}</City>
        <County>{{lead.county}}</County>
        <Postcode>{{upper lead.postcode}}</Postcode>
      </PostalAddress>
    </Customer>
    <Property>
      <Ownership><IsHomeowner>{{lead.homeowner}}</IsHomeowner></Ownership>
      <PropertyType>{{default lead.property_type "unknown"}}</PropertyType>
      <NumberOfBedrooms>{{default lead.bedrooms "0"}}</NumberOfBedrooms>
      <RoofType>{{default lead.roof "unknown"}}</RoofType>
{{#if lead.monthly_bill}}
      <MonthlyElectricityBill currency="GBP">{{number lead.monthly_bill 2}}</MonthlyElectricityBill>
{{/if}}
      <BatteryStorageWanted>{{lead.battery_wanted}}</BatteryStorageWanted>
      <SalesRegion>{{upper lead.region}}</SalesRegion>
    </Property>
    <Consent>
      <ConsentText channel="telephone,email">{{lead.consent}}</ConsentText>
      <ConsentGivenAt>{{lead.consent_at}}</ConsentGivenAt>
      <ConsentPage>{{lead.landing_page}}</ConsentPage>
    </Consent>
    <Comments maxLength="1000">{{lead.comments}}</Comments>
    <CommercialTerms>
      <AgreedPrice currency="GBP">{{contract.price}}</AgreedPrice>
      <Exclusive>true</Exclusive>
      <ReturnWindow unit="days">14</ReturnWindow>
      <PaymentTerms>Invoiced at the end of each month; leads that cannot be reached within fourteen days may be returned.</PaymentTerms>
    </CommercialTerms>
    <Processing>
      <DeduplicateBy>email,telephone</DeduplicateBy>
      <AssignTo queue="inbound-web-leads" priority="high">{{contract.id}}</AssignTo>
      <AcknowledgeWith>LeadRef</AcknowledgeWith>
    </Processing>
  </Lead>
</SubmitLead>
"#;
