// Package accounting answers: may this call spend so much, and what did it
// cost. It knows money, prices, windows, match and each; it reserves a call's
// worst case on every matching account, all or none, and settles it exactly
// once. It does not know what a request is, who a key belongs to, or HTTP.
package accounting
