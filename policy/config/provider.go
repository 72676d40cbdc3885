package config

import (
	"cmp"
	"errors"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"airgate/processor/dialect"
)

// compileProviders makes the transport facts of every provider.
func (c *compiler) compileProviders() {
	for i := range c.Providers.entries {
		e := &c.Providers.entries[i]
		c.snapshot.Providers = append(c.snapshot.Providers, c.provider(e))
	}
	slices.SortFunc(c.snapshot.Providers, func(a, b Provider) int { return cmp.Compare(a.Name, b.Name) })
	for i := range c.snapshot.Providers {
		p := &c.snapshot.Providers[i]
		c.providers[p.Name], c.snapshot.index[p.Name] = p, i
	}
}

func (c *compiler) provider(e *entry[provider]) Provider {
	v := &e.v
	p := Provider{
		Name: e.name.v, Dialect: dialect.Name(v.Dialect.v), Insecure: v.Insecure.v, Tags: tagsOf(v.Tags),
		CAFile: v.CAFile.v, ConnectTimeout: v.Timeouts.Connect.v, IdleTimeout: v.Timeouts.Idle.v,
	}
	if v.URL.good() {
		u, err := parseURL(v.URL.v)
		switch {
		case err != nil:
			c.report(v.URL.at, "%v", err)
		case u.Scheme == "http" && !v.Insecure.v && !loopback(u.Hostname()):
			c.report(v.URL.at, "plain http beyond loopback would send the credential and every prompt in clear: use https, or say insecure: true")
		case u.Scheme == "https" && v.Insecure.v:
			c.warn(v.Insecure.at, "insecure means nothing for an https URL: remove it")
		case u.Scheme == "http" && v.CAFile.given():
			c.report(v.CAFile.at, "caFile means nothing for an http URL: use https, or remove it")
		}
		p.URL = u
	}
	if v.CAFile.good() && !filepath.IsAbs(v.CAFile.v) {
		c.report(v.CAFile.at, "must be an absolute path: Envoy reads it")
	}
	p.ServiceTier = v.Tier.v
	c.region(v, &p)
	c.credential(v, &p)
	for _, t := range v.Exclusive.items {
		if known(c, t, "team", c.teams) {
			p.Exclusive = append(p.Exclusive, t.v)
		}
	}
	if v.Exclusive.good() && len(v.Exclusive.items) == 0 {
		c.report(v.Exclusive.at, "exclusive is empty: name the teams that alone use this account, or remove it")
	}
	return p
}

// region finds where a provider infers, if that is billed apart. Anthropic's
// answers say it themselves.
func (c *compiler) region(v *provider, p *Provider) {
	if v.Region.given() && p.Dialect == dialect.Anthropic {
		c.report(v.Region.at, "region belongs to dialect openai: Anthropic's answers say theirs")
	}
	p.Region = v.Region.v
	if p.Region != "" || p.URL == nil || p.Dialect != dialect.OpenAI {
		return
	}
	if region, ok := strings.CutSuffix(p.URL.Hostname(), ".api.openai.com"); ok {
		p.Region = region
	}
}

// envName is a portable name of an environment variable.
var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// headerName is the lower case of an HTTP token (RFC 9110 section 5.6.2) as
// far as providers' headers need it.
var headerName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// credential checks where Envoy finds the credential and how it sends it. No
// problem repeats a value: it may be the credential itself.
func (c *compiler) credential(v *provider, p *Provider) {
	file, env := v.Credential.File, v.Credential.Env
	switch {
	case !v.Credential.good(): // told
	case file.given() == env.given():
		c.report(v.Credential.at, "must hold exactly one of file and env")
	case file.good() && (!filepath.IsAbs(file.v) || filepath.Clean(file.v) != file.v):
		c.report(file.at, "must be the absolute path of a file that holds the credential: Envoy reads it")
	case env.good() && !envName.MatchString(env.v):
		c.report(env.at, "must be the name of an environment variable that holds the credential")
	}
	p.CredentialFile, p.CredentialEnv = file.v, env.v

	switch p.Dialect {
	case dialect.Anthropic:
		p.Header = "x-api-key"
	default:
		p.Header, p.Prefix = "authorization", "Bearer "
	}
	if h := v.Header; h.good() {
		switch {
		case !headerName.MatchString(h.v):
			c.report(h.at, "must be the name of an HTTP header in lower case")
		case strings.HasPrefix(h.v, "x-airgate-"):
			c.report(h.at, "headers x-airgate-… are airgate's own: name the provider's")
		case slices.Contains([]string{"host", "connection", "content-length", "content-type", "transfer-encoding", "te", "upgrade", "cookie"}, h.v):
			c.report(h.at, "%s is no place for a credential: name the provider's header", h.v)
		}
		if h.v != p.Header {
			p.Header, p.Prefix = h.v, ""
		}
	}
	if v.Prefix.good() {
		p.Prefix = v.Prefix.v
		if strings.ContainsFunc(p.Prefix, func(r rune) bool { return r < ' ' || r > '~' }) || len(p.Prefix) > 32 {
			c.report(v.Prefix.at, `must be at most 32 printable ASCII characters that stand before the credential, such as "Bearer "`)
		}
	}
}

// parseURL reads a provider's URL. Its errors do not repeat the URL, which may
// hold a password.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
		return nil, errors.New("is not a URL: write one such as https://api.example.com")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("must begin with https:// (or http://, to loopback)")
	case u.User != nil:
		return nil, errors.New("must hold no user or password: credentials belong into credential")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return nil, errors.New("must hold no query and no fragment: airgate builds both itself")
	case u.Opaque != "" || !goodHost(u):
		return nil, errors.New("must name a host (and perhaps a port from 1 to 65535), such as https://api.example.com")
	}
	path := strings.TrimSuffix(u.Path, "/")
	switch {
	case path != "" && !plainPath.MatchString(path) || u.RawPath != "":
		return nil, errors.New("has a path that is not plain: write /segment/segment of letters, digits, . _ ~ -")
	case path == "/v1" || strings.HasSuffix(path, "/v1"):
		return nil, errors.New("must end before /v1: airgate adds /v1/… itself")
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host), Path: path}, nil
}

// plainPath has no empty segment and none that begins with a dot.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`)

// hostName is a DNS name (RFC 1123 section 2.1, with the underscore that
// service names in clusters carry).
var hostName = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*\.?$`)

func goodHost(u *url.URL) bool {
	host := u.Hostname()
	if strings.HasSuffix(u.Host, ":") || len(host) > 253 {
		return false
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == "" && !addr.IsUnspecified()
	}
	return !strings.Contains(u.Host, "[") && hostName.MatchString(host)
}

// loopback says whether a host is this machine: its traffic passes no network.
func loopback(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}
