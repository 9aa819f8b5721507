package forward

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
)

// Redirect says where a destination may send us. Two kinds of servers do so:
// Adobe's answer connect with an error that holds the URL of another (302);
// those of Enhanced RTMP v2 ask a client to reconnect, to another tcUrl or the
// same, before they are shut down. Then the new connection is publishing before
// the old one is closed, and the switch is at a keyframe; a server that refuses
// to have the stream published twice gets it after the old connection has
// stopped there.
//
// Nobody is sent from rtmps to rtmp, more than 3 times in a row, or by
// ReconnectRequest more than once in 10 s. The Forwarder stays the same, and
// Hooks.OnForward is not told. A connection that is lost begins again at
// Destination.URL.
type Redirect int

const (
	// RedirectSameHost, the default, follows to other ports, apps and
	// instances of the host in Destination.URL (or ServerName), so that key
	// and password stay where they belong. Another port is 443, at least
	// 1024, or one of Config.AllowPorts.
	RedirectSameHost Redirect = iota
	// RedirectNever follows nowhere, which for a 302 is a refusal, and does
	// not announce that it honours ReconnectRequest.
	RedirectNever
	// RedirectAnywhere follows to any host, which gets the stream key, and
	// an answer if it asks for user and password. Where it leads is checked
	// as of a Destination that is Untrusted: see Config.AllowNetworks.
	// ServerName does not hold there, Fingerprint does.
	RedirectAnywhere
)

const (
	maxRedirects = 3
	// moveEvery is how soon after a ReconnectRequest another is honoured.
	moveEvery = 10 * time.Second
)

var (
	errRedirectNever = errors.New("redirects are not followed")
	errRedirectHost  = errors.New("another host, to which Destination.Redirect does not allow to go")
	errRedirectTLS   = errors.New("from rtmps to rtmp")
	errRedirectPort  = errors.New("a port below 1024 that is not in Config.AllowPorts")
	errRedirectURL   = errors.New("no URL that can be followed")
	errRedirectTimes = fmt.Errorf("more than %d redirects", maxRedirects)
)

// redirected is where a reference leads that a server at a place has given, or
// why it is not followed. One without a path means the same app. cfg says which
// ports it may have.
func (d Destination) redirected(cfg *Config, at endpoint.Endpoint, ref string) (endpoint.Endpoint, error) {
	if d.Redirect == RedirectNever {
		return at, errRedirectNever
	}
	if strings.HasPrefix(ref, "//") {
		ref = at.Scheme + ":" + ref
	}
	_, rest, isURL := strings.Cut(ref, "://")
	if !isURL {
		to, ok := at.Relative(ref)
		if !ok {
			return at, errRedirectURL
		}
		return to, nil
	}
	authority, path, _ := strings.Cut(rest, "/")
	if path == "" {
		ref = strings.TrimSuffix(ref, "/") + "/" + at.App
	}
	e, err := Destination{URL: ref, StreamKey: "-", Profile: d.Profile, ServerName: d.ServerName, Fingerprint: d.Fingerprint}.parse()
	home, herr := d.endpoint()
	port, perr := strconv.ParseUint(e.Port, 10, 16)
	if err != nil || herr != nil || perr != nil || strings.Contains(authority, "@") {
		return at, errRedirectURL
	}
	e.Key, e.User, e.Password, e.Times = at.Key, at.User, at.Password, at.Times
	same := strings.EqualFold(e.Host, home.Host) || strings.EqualFold(e.Host, home.ServerName)
	switch {
	case at.Scheme == "rtmps" && e.Scheme != "rtmps":
		return at, errRedirectTLS
	case !same && d.Redirect != RedirectAnywhere:
		return at, errRedirectHost
	case !same:
		e.Untrusted, e.ServerName = true, e.Host
	case e.Port != home.Port && !cfg.allowsPort(uint16(port)):
		return at, errRedirectPort
	}
	return e, nil
}

func (f *Forwarder) redirected(at endpoint.Endpoint, ref string) (endpoint.Endpoint, error) {
	return f.dst.redirected(f.src.srv.cfg.Load(), at, ref)
}
