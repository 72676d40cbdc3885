// Package xds answers: what must Envoy be told so that nothing reaches a
// provider without airgate's decision? It turns a config snapshot into typed
// Envoy protos. Envoy must be 1.40 or newer: an older one has no header of its
// own for a credential that rotates, and refuses the bootstrap.
//
// Between a caller and a provider stand four walls. The ext_proc filter fails
// closed. A provider's route matches only a header that callers cannot send,
// because it is removed before routing, together with metadata that only
// airgate can write. Every other path ends in a 403. And the provider's
// credential is added behind that route, by Envoy, from a file that airgate
// never reads.
package xds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"airgate/policy/config"
)

// DefaultCAFile is where Debian, Ubuntu, Alpine and Envoy's own images keep the
// public certificate authorities.
const DefaultCAFile = "/etc/ssl/certs/ca-certificates.crt"

const (
	unixScheme = "unix://"
	// maxSocketPath is Linux' sun_path less its terminating zero; Envoy does not
	// start with a longer one.
	maxSocketPath = 107
)

// Options is what a bootstrap is made from. Snapshot, Listen and ExtProc must
// be set.
type Options struct {
	Snapshot *config.Snapshot // its Providers and MaxBodyBytes
	Listen   string           // where callers connect: ip:port
	ExtProc  string           // airgate's socket: unix:///path
	Admin    string           // Envoy's admin interface: unix:///path, or ip:port on loopback; "" = AdminSocket(ExtProc)
	CAFile   string           // PEM file of the authorities that may vouch for providers; "" = DefaultCAFile
	// AllowEnv lets a credential come from Envoy's environment. Only whoever
	// starts Envoy, too, can promise that the variable is there.
	AllowEnv bool
}

// AdminSocket is the path of Envoy's admin interface where Options.Admin names
// no other: beside airgate's own socket, so that airgate, which drains Envoy
// through it, finds it without a second setting.
func AdminSocket(extProc string) string {
	return path.Join(path.Dir(strings.TrimPrefix(extProc, unixScheme)), "envoy.sock")
}

// Build makes a complete static bootstrap. The error joins every problem found,
// each naming the option or the provider to change.
func Build(o Options) (*bootstrapv3.Bootstrap, error) {
	if o.Admin == "" {
		o.Admin = unixScheme + AdminSocket(o.ExtProc)
	}
	if o.CAFile == "" {
		o.CAFile = DefaultCAFile
	}
	listen, errListen := tcpAddress("listen", o.Listen)
	socket, errSocket := pipeAddress("extproc", o.ExtProc)
	admin, errAdmin := adminAddress(o.Admin)
	errs := []error{errListen, errSocket, errAdmin}

	clusters := []*clusterv3.Cluster{processorCluster(socket), refusalCluster()}
	routes := make([]*routev3.Route, 0, len(o.Snapshot.Providers)+1)
	for i := range o.Snapshot.Providers {
		p := &o.Snapshot.Providers[i]
		credential, err := credentialValue(p, o.AllowEnv)
		if err != nil {
			errs = append(errs, fmt.Errorf("provider %q: %w", p.Name, err))
			continue
		}
		clusters = append(clusters, providerCluster(p, credential, o.CAFile))
		routes = append(routes, providerRoute(p))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: "airgate-envoy", Cluster: "airgate"},
		Admin: &bootstrapv3.Admin{Address: admin},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Listeners: []*listenerv3.Listener{callersListener(listen, o.Snapshot.MaxBodyBytes, append(routes, refusalRoute()))},
			Clusters:  clusters,
		},
	}, nil
}

// JSON renders b as a file for Envoy's --config-path. Equal input gives equal
// bytes.
func JSON(b *bootstrapv3.Bootstrap) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode bootstrap: %w", err)
	}
	// protojson varies its white space on purpose.
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, fmt.Errorf("indent bootstrap: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// tcpAddress wants an IP address, not a name: Envoy resolves none for a listener.
func tcpAddress(option, s string) (*corev3.Address, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("%s %q: want ip:port, such as 127.0.0.1:8080 or 0.0.0.0:8080", option, s)
	}
	return socketAddress(ap.Addr().String(), uint32(ap.Port())), nil
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func pipeAddress(option, s string) (*corev3.Address, error) {
	p, ok := strings.CutPrefix(s, unixScheme)
	switch {
	case !ok || !path.IsAbs(p):
		return nil, fmt.Errorf("%s %q: want unix:// and an absolute path", option, s)
	case len(p) > maxSocketPath:
		return nil, fmt.Errorf("%s %q: the path has %d bytes, a Unix socket takes %d: choose a shorter folder", option, s, len(p), maxSocketPath)
	}
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: p}}}, nil
}

// adminAddress keeps Envoy's admin interface, which can stop Envoy and has no
// password, to this machine and user.
func adminAddress(s string) (*corev3.Address, error) {
	if strings.HasPrefix(s, unixScheme) {
		a, err := pipeAddress("admin", s)
		if err == nil {
			a.GetPipe().Mode = 0o600
		}
		return a, err
	}
	a, err := tcpAddress("admin", s)
	if err == nil && !netip.MustParseAddr(a.GetSocketAddress().GetAddress()).IsLoopback() {
		return nil, fmt.Errorf("admin %q: Envoy's admin interface has no password: want a loopback address or unix:// and an absolute path", s)
	}
	return a, err
}

// typed wraps a config message. Marshalling fails only for text that is not
// UTF-8, which config has refused long before.
func typed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic("xds: " + err.Error())
	}
	return a
}
