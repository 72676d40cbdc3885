package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// advice says what to look at where a server, or a Sentinel, does not take a first
// call, by the names of Config's fields; "" = the error says it.
func advice(u *address, c *Config, err error) string {
	// The client tells in no other way whose answer it is.
	ofSentinel := strings.Contains(err.Error(), "all sentinels specified")
	who, file, given := "the server", "passwordFile", c.PasswordFile != "" || c.Username != ""
	if ofSentinel {
		who, file, given = "the Sentinel", "sentinelPasswordFile", c.SentinelPasswordFile != ""
	}
	said := func(code string) bool {
		return goredis.HasErrorPrefix(err, code) || strings.Contains(err.Error(), code+" ")
	}
	switch {
	case said("NOAUTH") && !given:
		return ": " + who + " asks for a password: " + file + " names the file that holds it"
	case (said("NOAUTH") || said("WRONGPASS")) && ofSentinel:
		return ": " + who + " does not take the password in sentinelPasswordFile: it is not that of the server"
	case said("NOAUTH"), said("WRONGPASS"):
		return ": " + who + " does not take the password in passwordFile for this username (none is the default user)"
	case said("NOPERM"):
		return ": the user that username names may not do what airgate needs: every command, on keys and channels that begin with airgate:"
	case ofSentinel && errors.Is(err, goredis.Nil):
		return ": no Sentinel that answers knows a master " + u.master + ": the url ends with the name that sentinel monitor gives it"
	case strings.Contains(err.Error(), "cluster support disabled"):
		return ": " + who + " is no node of a Cluster: then the url begins with " + strings.Replace(u.scheme(), "+cluster", "", 1) + "://"
	}
	if answer := goredis.Error(nil); errors.As(err, &answer) {
		return "" // such as LOADING, or that it has too many clients
	}
	return ": " + who + adviceOnTLS(u, err)
}

// adviceOnTLS is for an error that came without an answer.
func adviceOnTLS(u *address, err error) string {
	plain, withTLS := *u, *u
	plain.tls, withTLS.tls = false, true
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	network, _ := errors.AsType[*net.OpError](err)
	unreached, alert := network != nil && network.Op == "dial", network != nil && network.Op == "remote error"
	switch {
	case untrusted:
		return "'s certificate is not trusted: caFile names the certificate of who signed it (the system's authorities without it), and it is for the host that is asked"
	case alert:
		return " refuses airgate's TLS: 1.2 or 1.3, without a certificate of its own"
	case u.tls && (noTLS || !unreached && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF))):
		return " does not answer the TLS handshake: is it a TLS port? Without TLS the url begins with " + plain.scheme() + "://"
	case !u.tls && !unreached:
		return " does not answer in its protocol: does it hang, or is it a TLS port? With TLS the url begins with " + withTLS.scheme() + "://"
	}
	return " is not reached: is it running, and does the url say where?"
}
