package processor

import (
	"strings"

	"airgate/accounting"
	"airgate/policy"
	"airgate/processor/dialect"
)

// Code is why airgate refused a request: the words of header x-airgate-code
// and of record field code.
type Code string

// The codes of design section 7.
const (
	EndpointUnknown    Code = "endpoint_unknown"
	KeyMissing         Code = "key_missing"
	KeyUnknown         Code = "key_unknown"
	KeyRevoked         Code = "key_revoked"
	KeyExpired         Code = "key_expired"
	RateLimited        Code = "rate_limited"
	ConcurrencyLimited Code = "concurrency_limited"
	RequestTooLarge    Code = "request_too_large"
	RequestMalformed   Code = "request_malformed"
	ModelUnknown       Code = "model_unknown"
	ModelDenied        Code = "model_denied"
	PurposeRequired    Code = "purpose_required"
	PurposeUnknown     Code = "purpose_unknown"
	PurposeDenied      Code = "purpose_denied"
	ModelUnpriced      Code = "model_unpriced"
	CostUnbounded      Code = "cost_unbounded"
	RuleDenied         Code = "rule_denied"
	BudgetMissing      Code = "budget_missing"
	BudgetExhausted    Code = "budget_exhausted"
	BudgetInsufficient Code = "budget_insufficient"
	BudgetBusy         Code = "budget_busy"
	Overloaded         Code = "overloaded"
	QuotaUnavailable   Code = "quota_unavailable"
	JournalUnavailable Code = "journal_unavailable"
	GatewayFault       Code = "gateway_fault"
	// ProviderAuth and ProviderQuota stand in for an answer of the provider
	// that speaks about our credential or our account, not the caller's.
	ProviderAuth  Code = "provider_auth"
	ProviderQuota Code = "provider_quota"
)

// Class is how a finished request counts: record field class.
type Class string

// The classes.
const (
	ClassOK              Class = "ok"
	ClassPolicy          Class = "policy"
	ClassLimited         Class = "limited"
	ClassBudget          Class = "budget"
	ClassMalformed       Class = "malformed"
	ClassGateway         Class = "gateway"
	ClassTransient       Class = "transient"
	ClassProviderLimited Class = "provider_limited"
	ClassProviderQuota   Class = "provider_quota"
	ClassProviderAuth    Class = "provider_auth"
	ClassContextLength   Class = "context_length"
	ClassContentPolicy   Class = "content_policy"
	ClassClientClosed    Class = "client_closed"
)

// Family is the mission's coarser view of a class: record field family.
func (c Class) Family() string {
	switch c {
	case ClassTransient, ClassProviderLimited, ClassGateway:
		return "transient"
	case ClassPolicy, ClassLimited, ClassContentPolicy:
		return "policy"
	case ClassBudget:
		return "budget"
	case ClassMalformed, ClassContextLength:
		return "malformed"
	case ClassProviderQuota, ClassProviderAuth:
		return "provider"
	case ClassClientClosed:
		return "client"
	case ClassOK:
		return "ok"
	}
	return "transient"
}

// outcome is what a Code means on the wire.
type outcome struct {
	status int
	class  Class
	retry  bool // marked R in the contract: the same call may succeed soon
}

// outcomeOf is the only place where a refusal gets its status and class.
func outcomeOf(c Code) outcome {
	switch c {
	case EndpointUnknown, ModelUnknown:
		return outcome{404, ClassMalformed, false}
	case KeyMissing, KeyUnknown, KeyRevoked, KeyExpired:
		return outcome{401, ClassPolicy, false}
	case RateLimited, ConcurrencyLimited:
		return outcome{429, ClassLimited, true}
	case RequestTooLarge:
		return outcome{413, ClassMalformed, false}
	case RequestMalformed:
		return outcome{400, ClassMalformed, false}
	case ModelDenied, PurposeDenied, ModelUnpriced, CostUnbounded, RuleDenied:
		return outcome{403, ClassPolicy, false}
	case PurposeRequired, PurposeUnknown:
		return outcome{400, ClassPolicy, false}
	case BudgetMissing:
		return outcome{403, ClassBudget, false}
	case BudgetExhausted, BudgetInsufficient:
		return outcome{402, ClassBudget, false}
	case BudgetBusy:
		return outcome{429, ClassBudget, true}
	case Overloaded, QuotaUnavailable, JournalUnavailable:
		return outcome{503, ClassGateway, true}
	case ProviderAuth:
		return outcome{502, ClassProviderAuth, false}
	case ProviderQuota:
		return outcome{502, ClassProviderQuota, false}
	case GatewayFault:
		return outcome{500, ClassGateway, true}
	}
	return outcome{500, ClassGateway, true}
}

func codeOfPolicy(c policy.Code) Code {
	switch c {
	case policy.KeyMissing:
		return KeyMissing
	case policy.KeyUnknown:
		return KeyUnknown
	case policy.KeyRevoked:
		return KeyRevoked
	case policy.KeyExpired:
		return KeyExpired
	case policy.ModelUnknown:
		return ModelUnknown
	case policy.ModelDenied:
		return ModelDenied
	case policy.PurposeRequired:
		return PurposeRequired
	case policy.PurposeUnknown:
		return PurposeUnknown
	case policy.PurposeDenied:
		return PurposeDenied
	case policy.RuleDenied:
		return RuleDenied
	case policy.OK:
	}
	return GatewayFault
}

func codeOfAccounting(c accounting.Code) Code {
	switch c {
	case accounting.RateLimited:
		return RateLimited
	case accounting.ConcurrencyLimited:
		return ConcurrencyLimited
	case accounting.BudgetExhausted:
		return BudgetExhausted
	case accounting.BudgetInsufficient:
		return BudgetInsufficient
	case accounting.BudgetBusy:
		return BudgetBusy
	case accounting.BudgetMissing:
		return BudgetMissing
	case accounting.QuotaUnavailable:
		return QuotaUnavailable
	case accounting.OK:
	}
	return GatewayFault
}

// classOfProvider maps an answer of the provider. NoError with a failing
// status cannot happen: dialect.Classify always names one.
func classOfProvider(c dialect.ErrorClass) Class {
	switch c {
	case dialect.ProviderLimited:
		return ClassProviderLimited
	case dialect.ProviderQuota:
		return ClassProviderQuota
	case dialect.ProviderAuth:
		return ClassProviderAuth
	case dialect.MalformedRequest:
		return ClassMalformed
	case dialect.ContextLength:
		return ClassContextLength
	case dialect.ContentPolicy:
		return ClassContentPolicy
	case dialect.Transient, dialect.NoError:
	}
	return ClassTransient
}

// classOfCause says why an answer that did not end well ended, from the flags
// of Envoy's access log, which are joined by commas.
func classOfCause(c Cause) Class {
	for flag := range strings.SplitSeq(c.Flags, ",") {
		switch flag {
		case "DC", "DR": // downstream connection closed, downstream stream reset
			return ClassClientClosed
		}
	}
	return ClassTransient
}
