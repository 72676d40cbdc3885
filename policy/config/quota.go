package config

import (
	"cmp"
	"errors"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// quota compiles where the quota state lives. No problem repeats a value of
// what may hold a secret.
func (c *compiler) quota(q *quotaSection) Quota {
	out := Quota{Store: cmp.Or(q.Store.v, "memory"), Replicas: int(q.Replicas.v)}
	if !out.Shared() {
		if q.Store.good() {
			c.inMemory(q)
		}
		return out
	}
	out.URL, out.Username, out.PasswordFile = q.URL.v, q.Username.v, q.PasswordFile.v
	out.SentinelPasswordFile, out.CAFile = q.SentinelPasswordFile.v, q.CAFile.v
	out.Deadline = cmp.Or(q.Deadline.v, DefaultStoreDeadline)
	switch {
	case !q.URL.given():
		c.report(q.at, "url is missing: store %s needs to know where it is, such as rediss://cache.example.com:6379", out.Store)
	case q.URL.good():
		c.storeURL(q)
	}
	switch u := q.Username; {
	case !u.good():
	case u.v == "" || strings.ContainsAny(u.v, " "):
		c.report(u.at, "must be the name of an ACL user, without spaces")
	case !q.PasswordFile.given():
		c.report(u.at, "username needs passwordFile beside it: the file that holds this user's password")
	}
	for _, f := range []struct {
		hidden
		holds string
	}{
		{q.PasswordFile, "the password"},
		{q.SentinelPasswordFile, "the password of the sentinels"},
		{q.CAFile, "certificates in PEM"},
	} {
		if f.good() && (!filepath.IsAbs(f.v) || filepath.Clean(f.v) != f.v) {
			c.report(f.at, "must be the absolute path of a file that holds %s", f.holds)
		}
	}
	return out
}

// inMemory refuses what means nothing for a store in this process.
func (c *compiler) inMemory(q *quotaSection) {
	for _, f := range []struct {
		name string
		at   at
	}{
		{"url", q.URL.at},
		{"username", q.Username.at},
		{"passwordFile", q.PasswordFile.at},
		{"sentinelPasswordFile", q.SentinelPasswordFile.at},
		{"caFile", q.CAFile.at},
		{"insecure", q.Insecure.at},
		{"deadline", q.Deadline.at},
	} {
		if f.at.given() {
			c.report(f.at, "%s belongs to store redis or valkey: a store in memory is in this process; remove it, or name another store", f.name)
		}
	}
	if q.Replicas.v > 1 {
		c.report(q.Replicas.at, "a store in memory counts for one airgate alone: write replicas: 1, or share a store (redis, valkey)")
	}
}

// storeURL checks the URL, and that what stands beside it means something for
// one of its kind.
func (c *compiler) storeURL(q *quotaSection) {
	u, err := parseStoreURL(q.URL.v)
	if err != nil {
		c.report(q.URL.at, "%v", err)
		return
	}
	switch {
	case u.tls && q.Insecure.v:
		c.warn(q.Insecure.at, "insecure means nothing for a URL with TLS (rediss): remove it")
	case !u.tls && !u.local && !q.Insecure.v:
		c.report(q.URL.at, "a connection without TLS beyond loopback would send the password in clear and let others on the way change what is counted: use rediss, or say insecure: true")
	}
	if q.CAFile.given() && !u.tls {
		c.report(q.CAFile.at, "caFile means nothing for a URL without TLS: use rediss, or remove it")
	}
	if q.SentinelPasswordFile.given() && !u.sentinels {
		c.report(q.SentinelPasswordFile.at, "sentinelPasswordFile means nothing for a URL without sentinels: use redis+sentinel:// or rediss+sentinel://, or remove it")
	}
}

// storeURL is what the URL of a store says of its connections.
type storeURL struct {
	tls       bool
	sentinels bool // they say which server is the one
	local     bool // every host is this machine
}

// parseStoreURL checks the URL of a store. Its errors do not repeat the URL,
// which may hold a password.
func parseStoreURL(s string) (storeURL, error) {
	const schemes = "redis://, redis+sentinel:// or redis+cluster://, with TLS rediss://, rediss+sentinel:// or rediss+cluster://; for Valkey too"
	scheme, rest, ok := strings.Cut(s, "://")
	kind, known := strings.CutPrefix(scheme, "redis")
	kind, tls := strings.CutPrefix(kind, "s")
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
		return storeURL{}, errors.New("is not a URL: write one such as rediss://cache.example.com:6379")
	case !ok || !known || kind != "" && kind != "+sentinel" && kind != "+cluster":
		return storeURL{}, errors.New("must begin with " + schemes)
	case strings.Contains(rest, "@"):
		return storeURL{}, errors.New("must hold no user or password: write username and passwordFile beside it")
	case strings.Contains(rest, "#"):
		return storeURL{}, errors.New("must hold no fragment: remove # and what follows")
	}
	rest, query, asks := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(rest, "/")
	local, err := storeHosts(hosts, kind != "")
	if err != nil {
		return storeURL{}, err
	}
	db, chosen := strings.CutPrefix(query, "db=")
	switch {
	case asks && (kind != "+sentinel" || !chosen):
		return storeURL{}, errors.New("must hold no query but, for sentinels, ?db=N: the other settings are fields beside it")
	case kind == "+sentinel" && (path == "" || badLabel(path, "") != ""):
		return storeURL{}, errors.New("must name the master that the sentinels watch: redis+sentinel://host:26379,host:26379/mymaster")
	case kind == "+cluster" && path != "":
		return storeURL{}, errors.New("must end with its hosts: a cluster has database 0 alone")
	case kind == "":
		db, chosen = path, path != ""
	}
	if n, err := strconv.ParseUint(db, 10, 16); chosen && (err != nil || strconv.FormatUint(n, 10) != db) {
		return storeURL{}, errors.New("has a database that is not a number from 0 to 65535")
	}
	return storeURL{tls: tls, sentinels: kind == "+sentinel", local: local}, nil
}

// storeHosts checks the hosts of a store's URL, one or several with commas
// between them, and says whether all are this machine.
func storeHosts(list string, several bool) (local bool, err error) {
	local = true
	hosts := strings.Split(list, ",")
	if len(hosts) > 1 && !several {
		return false, errors.New("must name one host: several are for redis+sentinel:// and redis+cluster://")
	}
	for _, h := range hosts {
		u := &url.URL{Host: h}
		if !goodHost(u) {
			return false, errors.New("must name a host (and perhaps a port from 1 to 65535), such as rediss://cache.example.com:6379")
		}
		local = local && loopback(u.Hostname())
	}
	return local, nil
}
