package forward

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
)

// Redirect sets which redirects of a destination are followed. There are two
// kinds. Adobe's servers answer connect with an error that holds another URL
// (302). Servers of Enhanced RTMP v2 send a ReconnectRequest, with another tcUrl
// or without one, before they shut down: the new connection then publishes
// before the old one is closed, and the switch is at a keyframe. If the server
// refuses the second publish, the new connection publishes after the old one has
// stopped.
//
// Never followed: rtmps to rtmp; more than 3 in a row; more than one
// ReconnectRequest per 10 s. The Forwarder stays the same, and Hooks.OnForward does
// not report the redirect. A lost connection is retried at Destination.URL.
type Redirect int

const (
	// RedirectSameHost, the default, follows redirects to other ports and apps of
	// the host in Destination.URL (or ServerName), so that no other host gets key
	// and password. Another port must be 443, at least 1024, or one of
	// Config.AllowPorts.
	RedirectSameHost Redirect = iota
	// RedirectNever follows no redirect. A 302 is then a refusal, and support for
	// ReconnectRequest is not announced.
	RedirectNever
	// RedirectAnywhere follows redirects to any host. That host gets the stream
	// key, and user and password if it asks for them. Its address is checked like
	// that of an Untrusted Destination: see Config.AllowNetworks. ServerName does
	// not apply to that host; Fingerprint does.
	RedirectAnywhere
)

// moveEvery is the shortest time between two ReconnectRequests that are followed.
const moveEvery = 10 * time.Second

var (
	errRedirectNever = errors.New("redirects are not followed")
	errRedirectHost  = errors.New("another host, to which Destination.Redirect does not allow to go")
	errRedirectTLS   = errors.New("from rtmps to rtmp")
	errRedirectPort  = errors.New("a port below 1024 that is not in Config.AllowPorts")
	errRedirectURL   = errors.New("no URL that can be followed")
)

// redirected returns the place to which ref redirects from at, or why the redirect is not
// followed. A ref without a path keeps the app. cfg has the allowed ports.
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
