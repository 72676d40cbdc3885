package redis

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// kind is how many servers there are and who says which one is asked.
type kind string

const (
	single   kind = ""
	sentinel kind = "sentinel"
	cluster  kind = "cluster"
)

// address is a URL, read.
type address struct {
	kind     kind
	tls      bool
	hosts    []string // host:port
	master   string   // what Sentinel calls it
	database int
}

// String is the URL.
func (a *address) String() string {
	text := a.scheme() + "://" + strings.Join(a.hosts, ",")
	database := "/"
	if a.kind == sentinel {
		text, database = text+"/"+a.master, "?db="
	}
	if a.database != 0 {
		text += database + strconv.Itoa(a.database)
	}
	return text
}

func (a *address) scheme() string {
	scheme := "redis"
	if a.tls {
		scheme = "rediss"
	}
	if a.kind != single {
		scheme += "+" + string(a.kind)
	}
	return scheme
}

// parseURL reads the forms of Config.URL. No error quotes what could be a
// password.
func parseURL(text string) (*address, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return nil, errors.New("it does not begin with redis://, rediss://, redis+sentinel:// or redis+cluster://")
	}
	a := new(address)
	port := "6379"
	switch base, form, _ := strings.Cut(scheme, "+"); {
	case base != "redis" && base != "rediss" || form == "" && strings.Contains(scheme, "+"):
		return nil, fmt.Errorf("unknown scheme %q: redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster", scheme)
	case form == "", form == "sentinel", form == "cluster":
		a.tls, a.kind = base == "rediss", kind(form)
	default:
		return nil, fmt.Errorf("unknown scheme %q: redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster", scheme)
	}
	if a.kind == sentinel {
		port = "26379"
	}
	if strings.Contains(rest, "@") {
		return nil, errors.New("there is a user or a password in it: they are named beside it, the password by its file")
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(rest, "/")
	for host := range strings.SplitSeq(hosts, ",") {
		h, p, err := net.SplitHostPort(host)
		if err != nil {
			h, p = strings.Trim(host, "[]"), port
			if strings.Contains(h, ":") && !strings.HasPrefix(host, "[") {
				return nil, fmt.Errorf("host %q: an IPv6 address goes into brackets", host)
			}
		}
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("host %q: %q is not a port", host, p)
		}
		if h == "" {
			return nil, errors.New("a host is missing")
		}
		a.hosts = append(a.hosts, net.JoinHostPort(h, p))
	}
	database := ""
	switch a.kind {
	case single:
		if len(a.hosts) > 1 {
			return nil, errors.New("several hosts: with Sentinel the scheme is redis+sentinel, with a Cluster redis+cluster")
		}
		database = path
	case sentinel:
		if a.master = path; a.master == "" || strings.Contains(a.master, "/") {
			return nil, errors.New("what Sentinel calls the master is missing: redis+sentinel://host,host/master")
		}
		if hasQuery {
			if database, ok = strings.CutPrefix(query, "db="); !ok {
				return nil, fmt.Errorf("unknown option %q: only db=number is known", query)
			}
			hasQuery = false
		}
	case cluster:
		if path != "" {
			return nil, fmt.Errorf("a Cluster has no database %q", path)
		}
	}
	if hasQuery {
		return nil, fmt.Errorf("unknown option %q", query)
	}
	if database != "" {
		n, err := strconv.ParseUint(database, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is not the number of a database", database)
		}
		a.database = int(n)
	}
	return a, nil
}
