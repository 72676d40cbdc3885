package config

// APIVersion is the only version of the configuration there is.
const APIVersion = "airgate/v1"

// document is one YAML document: the schema of everything that may be written.
// Its tags are the one description of it:
//
//	config:"name"           a field; name,required must be there; name,later is
//	                        known and refused, as this version has not built it
//	kind:"Finance"          the kind of document the embedded sections belong to
//	oneof, later            the words of a choice, and those not built yet
//	min, max                bounds of a count
//	also                    characters that names may hold beside the usual ones
//	doc                     one sentence for the JSON Schema
type document struct {
	at
	APIVersion choice `config:"apiVersion,required" oneof:"airgate/v1" later:"airgate/*" doc:"Version of this format."`
	Kind       choice `config:"kind" oneof:"Platform Policy Limits Finance Keys" doc:"The owner of this document; without it the document may hold every section."`

	sections
}

// sections are the sections of all kinds: of one document, or of the whole
// configuration once the documents are joined.
type sections struct {
	// partial says that a file could not be read to its end: what seems to be
	// missing may be there.
	partial bool
	// wrong says that not all could be compiled: what is not here may be in force.
	wrong bool

	platformSections `kind:"Platform"`
	policySections   `kind:"Policy"`
	limitsSections   `kind:"Limits"`
	financeSections  `kind:"Finance"`
	keysSections     `kind:"Keys"`
}

type platformSections struct {
	Providers          dict[provider] `config:"providers" doc:"Where models are served, by name."`
	Models             dict[model]    `config:"models" also:"/:" doc:"The names callers use; nothing else is reachable."`
	Quota              quotaSection   `config:"quota" doc:"Where the shared quota state lives."`
	Journal            journalSection `config:"journal" doc:"How the write-ahead book is kept."`
	Sinks              list[sink]     `config:"sinks" doc:"Where records are shipped to; without the field SQLite in the data directory, [] = nowhere: the journal alone keeps them."`
	Requires           list[choice]   `config:"requires" oneof:"Platform Policy Limits Finance Keys" doc:"Kinds that must be there, also at a cold start."`
	Enforcement        choice         `config:"enforcement" oneof:"enforce shadow" doc:"shadow decides and records would_deny, and refuses only for keys and routes."`
	MaxBodyBytes       count          `config:"maxBodyBytes" min:"1024" max:"1073741824" doc:"Largest request body, inclusive."`
	MaxTokensPerSecond count          `config:"maxTokensPerSecond" max:"1000000" doc:"The most a provider generates in a second, for answers that end without usage."`
	Overlay            overlaySection `config:"overlay" doc:"What operators may lay over the files for a while."`
	Privacy            anything       `config:"privacy,later"`
	Console            anything       `config:"console,later"`
	Telemetry          anything       `config:"telemetry,later"`
	ClampOutput        anything       `config:"clampOutput,later"`
}

type provider struct {
	at
	Dialect    choice     `config:"dialect,required" oneof:"openai anthropic" later:"*" doc:"The wire format it speaks."`
	URL        hidden     `config:"url,required" doc:"https://host[:port][/path]; airgate adds /v1/… itself."`
	Credential credential `config:"credential,required" doc:"Read by Envoy, never by airgate."`
	Header     label      `config:"header" doc:"Carries the credential; by dialect if absent."`
	Prefix     hidden     `config:"prefix" doc:"Stands before the credential in the header."`
	Insecure   boolean    `config:"insecure" doc:"Plain http beyond loopback is meant."`
	CAFile     text       `config:"caFile" doc:"Authorities that may vouch for it; the system's if absent."`
	Tags       dict[text] `config:"tags" doc:"For rules: provider.tags.region."`
	Region     choice     `config:"region" oneof:"us eu other" doc:"Where calls are inferred, if that is billed apart; by the host of the URL for OpenAI's own."`
	Tier       choice     `config:"serviceTier" oneof:"default priority" doc:"What the account serves calls on that name no tier; default if absent."`
	Exclusive  list[text] `config:"exclusive" doc:"The teams that alone use this account."`
	Timeouts   timeouts   `config:"timeouts" doc:"How long to wait for it."`
	Retry      anything   `config:"retry,later"`
}

type credential struct {
	at
	File hidden `config:"file" doc:"Absolute path of a file with the raw credential; it may rotate."`
	Env  hidden `config:"env" doc:"Variable of Envoy's process; airgate run and demo only."`
}

type timeouts struct {
	at
	Connect period `config:"connect" doc:"Until the connection stands."`
	Idle    period `config:"idle" doc:"The longest silence within an answer."`
}

type model struct {
	at
	Provider        text         `config:"provider" doc:"The provider that serves it."`
	UpstreamModel   upstreamName `config:"upstreamModel" doc:"What the provider calls it; the same name if absent."`
	Targets         list[target] `config:"targets" doc:"Other models that calls are split over, in place of provider."`
	Aliases         list[label]  `config:"aliases" also:"/:" doc:"Other names callers may use."`
	MaxOutputTokens count        `config:"maxOutputTokens" max:"2147483647" doc:"The most one answer holds; from the catalogue if absent."`
	ContextWindow   count        `config:"contextWindow" max:"2147483647" doc:"The most input it takes; from the catalogue if absent."`
	InputOverhead   count        `config:"inputOverhead" max:"2147483647" doc:"Input tokens that the provider may count beyond the bytes of the body; by dialect if absent or less."`
	Retry           anything     `config:"retry,later"`
}

type target struct {
	at
	Model  text     `config:"model,required" doc:"A model that names a provider."`
	Weight count    `config:"weight" max:"1000000" doc:"Share of the calls, against the other weights; 1 if absent."`
	After  anything `config:"after,later"`
}

type quotaSection struct {
	at
	Store                choice  `config:"store,required" oneof:"memory redis valkey" doc:"memory: one process counts; the others are shared by several airgates."`
	URL                  hidden  `config:"url" doc:"redis://host[:port][/db], redis+sentinel://host,host/master[?db=N] or redis+cluster://host,host; with TLS rediss."`
	Username             hidden  `config:"username" doc:"Of an ACL user; the default one if absent."`
	PasswordFile         hidden  `config:"passwordFile" doc:"Absolute path of a file that holds the password."`
	SentinelPasswordFile hidden  `config:"sentinelPasswordFile" doc:"Absolute path of a file that holds the password of the sentinels; none if absent."`
	CAFile               hidden  `config:"caFile" doc:"Absolute path of the authorities that may vouch for the store, in PEM; the system's if absent."`
	Insecure             boolean `config:"insecure" doc:"A connection without TLS beyond loopback is meant."`
	Deadline             period  `config:"deadline" most:"1s" usual:"50ms" doc:"The longest that one call of the store may take, at most 1s; 50ms if absent."`
	Replicas             count   `config:"replicas" max:"10000" doc:"The most airgates that there can be at once."`
}

type journalSection struct {
	at
	Durability choice `config:"durability,required" oneof:"disk process" later:"replicated" doc:"When a record counts as safe: on disk, or written to the kernel."`
}

type sink struct {
	at
	Name label  `config:"name,required" doc:"For metrics and checkpoints."`
	Type choice `config:"type,required" oneof:"sqlite" later:"postgres kafka" doc:"What it is."`
	Path text   `config:"path,required" doc:"Of the database; relative to the data directory unless absolute."`
}

type overlaySection struct {
	at
	MaxRaise allowance `config:"maxRaise" doc:"How far a budget may be raised beyond its usd: a share of it, or USD; not at all if absent."`
	File     text      `config:"file" doc:"Where the entries are that the airgates of this machine share; relative to the data directory unless absolute, overlay.jsonl if absent."`
}

type policySections struct {
	Teams    dict[team]    `config:"teams" doc:"Who calls, by name."`
	Purposes dict[purpose] `config:"purposes" doc:"The registry of purposes; without it any word is one."`
	Rules    list[rule]    `config:"rules" doc:"Conditions in CEL."`
}

type team struct {
	at
	Parent         text       `config:"parent" doc:"The team it belongs to."`
	Models         list[text] `config:"models" doc:"Names or globs; the parent's if absent, none if empty; only narrows."`
	Purposes       list[text] `config:"purposes" doc:"The parent's if absent, none if empty; only narrows."`
	DefaultPurpose text       `config:"defaultPurpose" doc:"Of a call that names none."`
	Owner          text       `config:"owner" doc:"Whom a refused caller asks."`
	CostCenter     text       `config:"costCenter" doc:"For reports; inherited."`
	Tags           dict[text] `config:"tags" doc:"For rules and matches; inherited one by one."`
}

type purpose struct {
	at
	Owner   text    `config:"owner" doc:"Whom a refused caller asks."`
	Default boolean `config:"default" doc:"Of calls that name none and whose team has none; at most one."`
}

type rule struct {
	at
	Name label      `config:"name,required" doc:"For metrics, reasons and audits."`
	When expression `config:"when,required" doc:"A CEL expression that is true or false."`
	Deny text       `config:"deny" doc:"Refuse, with this reason."`
	Set  ruleSet    `config:"set" doc:"Or lay something down."`
	Mode choice     `config:"mode" oneof:"enforce shadow" doc:"shadow records would_deny and does not refuse."`
}

type ruleSet struct {
	at
	MaxOutputTokens count `config:"maxOutputTokens,required" max:"2147483647" doc:"Lowers the output cap."`
}

// match is which calls a limit or budget applies to.
type match struct {
	at
	Team     many[text]       `config:"team" doc:"Descendants included."`
	Key      many[text]       `config:"key" doc:"Name or id."`
	Purpose  many[text]       `config:"purpose"`
	Provider many[text]       `config:"provider"`
	Model    many[text]       `config:"model" doc:"Canonical name: the model that names a provider."`
	User     anything         `config:"user,later"`
	Session  anything         `config:"session,later"`
	Tags     dict[many[text]] `config:"tags.*" doc:"Of the team."`
}

type limitsSections struct {
	Limits list[limit] `config:"limits" doc:"Rates and concurrency; all that match apply together."`
}

type limit struct {
	at
	Name        label        `config:"name,required" doc:"For metrics and refusals; renaming keeps what was used."`
	Match       match        `config:"match" doc:"The calls it applies to; all if absent."`
	Each        many[choice] `config:"each" oneof:"team key purpose provider model user session" later:"tags.*" doc:"One account for each of these; one for all if absent."`
	Requests    rate         `config:"requests" doc:"20/s, 600/min, /h, /day."`
	Tokens      rate         `config:"tokens" doc:"200000/min, /s, /h, /day."`
	Concurrent  count        `config:"concurrent" max:"1000000" doc:"Calls in flight."`
	Burst       count        `config:"burst" doc:"Capacity; one period's worth of tokens or one second's of requests if absent."`
	Mode        choice       `config:"mode" oneof:"enforce shadow" doc:"shadow records would_deny and does not refuse."`
	Owner       text         `config:"owner" doc:"Whom a refused caller asks."`
	MaxAccounts count        `config:"maxAccounts" max:"100000" doc:"Accounts of each: user or session; beyond them one shared one."`
	OnStoreDown choice       `config:"onStoreDown" oneof:"deny allow" doc:"What becomes of a call that needs the shared store while that does not answer; deny if absent."`
}

type financeSections struct {
	Budgets    list[budget]  `config:"budgets" doc:"Money; all that match apply together."`
	Unbudgeted choice        `config:"unbudgeted" oneof:"deny allow" doc:"A call that no enforced budget covers."`
	Unpriced   choice        `config:"unpriced" oneof:"deny allow" doc:"A call of a model without a price."`
	Prices     pricesSection `config:"prices" doc:"Over the built-in dated catalogue."`
}

type budget struct {
	at
	Name         label           `config:"name,required" doc:"For metrics and refusals; renaming keeps what was used."`
	Match        match           `config:"match" doc:"The calls it applies to; all if absent."`
	Each         many[choice]    `config:"each" oneof:"team key purpose provider model user session" later:"tags.*" doc:"One account for each of these; one for all if absent."`
	USD          dollars         `config:"usd,required" doc:"The bound."`
	Per          choice          `config:"per,required" oneof:"day week month quarter year total" doc:"Calendar window; weeks begin on Monday."`
	TimeZone     zone            `config:"timeZone" doc:"IANA zone of the window; UTC if absent."`
	Owner        text            `config:"owner" doc:"Whom a refused caller asks."`
	Mode         choice          `config:"mode" oneof:"enforce shadow" doc:"shadow records would_deny and does not refuse."`
	Admission    choice          `config:"admission" oneof:"strict expected" doc:"strict holds the worst case; expected what such calls usually cost, once that is learned, and may be overdrawn by calls in flight."`
	Overrides    list[override]  `config:"overrides" doc:"Other amounts for some; the most specific wins."`
	BudgetStatus choice          `config:"budgetStatus" oneof:"402 403 429" doc:"HTTP status of its refusals; 402 if absent."`
	MaxAccounts  count           `config:"maxAccounts" max:"100000" doc:"Accounts of each: user or session; beyond them one shared one."`
	WarnAt       list[threshold] `config:"warnAt" doc:"Shares of it at which somebody is told, once per account and window: 80%, or of the forecast, forecast 100%."`
	OnStoreDown  outage          `config:"onStoreDown" doc:"What becomes of a call that needs the shared store while that does not answer: deny, or {allowWithinUSD: 5}; deny if absent."`
	ClampOutput  clampOutput     `config:"clampOutput" doc:"A call that does not fit gets a lower output cap instead of a refusal."`
	StreamHold   choice          `config:"streamHold" oneof:"whole sliced" doc:"sliced holds a streamed call in parts as its output comes, and cuts it where no more is left; whole if absent."`
}

// outage is what becomes of the calls of a budget while the shared store does
// not answer: deny, or {allowWithinUSD: 5}.
type outage struct {
	at
	AllowWithinUSD dollars `config:"allowWithinUSD,required" doc:"What all airgates together may hold beyond what they have in hand; quota.replicas divides it among them."`
}

type clampOutput struct {
	at
	FloorTokens count `config:"floorTokens,required" max:"2147483647" doc:"No cap is lowered below it."`
}

type override struct {
	at
	For    match   `config:"for" doc:"Those of the budget's calls that it holds for; all if absent, and then it has an until."`
	USD    dollars `config:"usd,required" doc:"Their bound."`
	By     text    `config:"by" doc:"Who agreed to it."`
	Reason text    `config:"reason" doc:"Why."`
	Until  instant `config:"until" doc:"First instant it no longer holds; a bare date is 00:00 in the budget's timeZone."`
}

type pricesSection struct {
	at
	USDPerMillionTokens dict[many[priceRow]] `config:"usdPerMillionTokens" also:"/:" doc:"By model: one row, or several with different from."`
}

type priceRow struct {
	at
	Input        price   `config:"input" doc:"Uncached input."`
	Output       price   `config:"output" doc:"Output, reasoning included."`
	CacheRead    price   `config:"cacheRead" doc:"Input read from a cache."`
	CacheWrite5m price   `config:"cacheWrite5m" doc:"Input written to the short cache."`
	CacheWrite1h price   `config:"cacheWrite1h" doc:"Input written to the long cache."`
	From         instant `config:"from" doc:"First instant it holds; a bare date is 00:00 UTC; always if absent."`
}

type keysSections struct {
	Keys list[key] `config:"keys" doc:"Virtual keys, as hashes; airgate keys create writes them."`
}

type key struct {
	at
	ID      text         `config:"id,required" doc:"12 letters and digits."`
	Name    label        `config:"name" doc:"For people and matches."`
	Team    text         `config:"team,required" doc:"Whose calls its calls are."`
	Purpose text         `config:"purpose" doc:"The only purpose of its calls."`
	Models  list[text]   `config:"models" doc:"Names or globs; the team's if absent; only narrows."`
	Secrets list[secret] `config:"secrets,required" doc:"Rotation adds one."`
	Revoked instant      `config:"revoked" doc:"From then on it is refused."`
}

type secret struct {
	at
	Hash    digest  `config:"hash,required" doc:"sha256: and the SHA-256 of the 43 secret characters, in hexadecimal."`
	Created instant `config:"created" doc:"When it was made."`
	Expires instant `config:"expires" doc:"First instant it is refused."`
}
