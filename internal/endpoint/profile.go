package endpoint

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward/internal/flv"
)

// The names of profiles.
const (
	None     = "none"
	YouTube  = "youtube"
	Facebook = "facebook"
	Twitch   = "twitch"
	IVS      = "ivs"
	Akamai   = "akamai"
	Wowza    = "wowza"
	SRS      = "srs"
	Nginx    = "nginx-rtmp"
	MediaMTX = "mediamtx"
)

// The names of times other than the stream's.
const (
	Zero       = "zero"
	Increasing = "increasing"
)

// Profile holds the needs of a kind of server that differ from the defaults.
type Profile struct {
	Name    string
	Title   string
	hosts   []string  // domains, including their subdomains
	scheme  string    // of a URL without a scheme
	app     string    // of a URL without an app
	tls     bool      // rtmp:// is refused, usually without an answer
	keyless bool      // the key may be empty
	login   bool      // user and password follow the key
	maxName int       // bytes of app, tcUrl and key; 0: no limit
	Times   string    // Zero, Increasing or empty
	Video   flv.Codec // the only codec accepted; 0: any
	Audio   bool      // audio is required
	starts  bool      // may start a broadcast when an encoder connects
	plain   string    // the usual problem with rtmp://
	hint    string    // what else to check after a failure
}

// nginxName is the size of nginx-rtmp's name buffers (NGX_RTMP_MAX_NAME) without the
// terminating byte.
const nginxName = 255

var profiles = []Profile{
	{
		Name: YouTube, Title: "YouTube", hosts: []string{"rtmps.youtube.com"}, starts: true,
		scheme: "rtmps", app: "live2", tls: true, Audio: true,
		hint: "the stream needs an audio track",
	},
	{
		Name: YouTube, Title: "YouTube", hosts: []string{"rtmp.youtube.com"}, starts: true,
		scheme: "rtmp", app: "live2", Audio: true,
		hint: "rtmps:// needs a host in rtmps.youtube.com; the stream needs an audio track",
	},
	{
		Name: Facebook, Title: "Facebook", hosts: []string{"facebook.com", "fbcdn.net"}, starts: true,
		scheme: "rtmps", app: "rtmp", tls: true,
		hint: "the key is used up about a day after it was given out",
	},
	{
		Name: Twitch, Title: "Twitch", hosts: []string{"twitch.tv"}, starts: true,
		scheme: "rtmp", app: "app", Video: flv.CodecAVC,
		hint: "regular ingest takes H.264 only",
	},
	{
		Name: IVS, Title: "Amazon IVS (Kick, Twitch)", hosts: []string{"live-video.net"}, starts: true,
		scheme: "rtmps", app: "app", plain: "rtmp:// is refused where it is not enabled",
		hint: "a channel takes one publisher, whose media must be as it expects",
	},
	{
		Name: Akamai, Title: "Akamai", hosts: []string{"akamaientrypoint.net"},
		scheme: "rtmp", Times: Increasing,
		hint: "user and password are needed",
	},
	{
		Name: Wowza, Title: "Wowza", hosts: []string{"entrypoint.cloud.wowza.com"},
		scheme: "rtmp",
		hint:   "user and password are needed unless disabled for the stream",
	},
	{Name: SRS, Title: "SRS", hint: "a name that is published already is busy for a while after its publisher has gone"},
	{Name: Nginx, Title: "nginx-rtmp", maxName: nginxName, hint: "an unknown app is closed without an answer"},
	{Name: MediaMTX, Title: "MediaMTX", keyless: true, login: true, hint: "app and key together are its path"},
}

// ProfileNames returns the names of all profiles.
func ProfileNames() []string {
	names := []string{None}
	for _, p := range profiles {
		names = append(names, p.Name)
	}
	return slices.Compact(names) // a profile may be listed for several kinds of hosts
}

// ProfileOf returns the profile of a name or, if the name is empty, the one for a host. p
// is nil if there is none; ok is false for an unknown name.
func ProfileOf(name string, host string) (p *Profile, ok bool) {
	if name == None {
		return nil, true
	}
	host = "." + strings.ToLower(strings.TrimSuffix(host, "."))
	var named *Profile
	for i := range profiles {
		p := &profiles[i]
		if name != "" && p.Name != name {
			continue
		}
		if named == nil {
			named = p
		}
		for _, domain := range p.hosts {
			if strings.HasSuffix(host, "."+domain) {
				return p, true
			}
		}
	}
	if name == "" {
		return nil, true
	}
	return named, named != nil
}

// IsPlatform reports whether p is a platform, and not a server that users run themselves.
func (p *Profile) IsPlatform() bool { return p != nil && len(p.hosts) > 0 }

// StartsBroadcasts reports whether p is a platform that may start a broadcast when an
// encoder connects.
func (p *Profile) StartsBroadcasts() bool { return p != nil && p.starts }

// WithScheme adds the scheme to a URL without one if its host is a platform's.
func WithScheme(s string) string {
	authority, _, _ := strings.Cut(s, "/")
	_, hostport, _ := CutLast(authority, "@")
	host, _, err := SplitAuthority(hostport)
	if p, _ := ProfileOf("", host); err == nil && p != nil {
		return p.scheme + "://" + s
	}
	return s
}

// Complete adds to e what the server requires and the URL does not contain.
func (p *Profile) Complete(e *Endpoint) {
	if p == nil {
		return
	}
	if p.app != "" {
		app, _, _ := strings.Cut(e.App, "?")
		if e.Key == "" && app != p.app && !strings.Contains(app, "/") {
			e.App, e.Key = "", e.App
		}
		e.App = cmp.Or(e.App, p.app)
	}
	if p.login && (e.User != "" || e.Password != "") {
		to := &e.Key
		if e.Key == "" {
			to = &e.App
		}
		mark := "?"
		if strings.Contains(*to, "?") {
			mark = "&"
		}
		*to += mark + "user=" + url.QueryEscape(e.User) + "&pass=" + url.QueryEscape(e.Password)
	}
}

// Warning returns one sentence, without a secret, about something that the server may not
// accept, or "".
func (e *Endpoint) Warning() string {
	limit, title := nginxName, "nginx-rtmp and those made from it take"
	if e.Profile != nil {
		limit, title = e.Profile.maxName, e.Profile.Title+" takes"
	}
	for _, f := range []struct{ what, value string }{{"stream key", e.Key}, {"app", e.App}, {"tcUrl", e.TcURL}} {
		if limit > 0 && len(f.value) > limit {
			return fmt.Sprintf("the %s is %d bytes long; %s only the first %d", f.what, len(f.value), title, limit)
		}
	}
	return ""
}

// hint returns one sentence, without a secret, about the likely mistake if e cannot be
// reached or refuses, or "".
func (e *Endpoint) hint() string {
	app, _, _ := strings.Cut(e.App, "?")
	switch {
	case e.Profile == nil:
		return ""
	case e.Profile.tls && e.Scheme == "rtmp":
		return e.Profile.Title + " wants rtmps://"
	case e.Profile.app != "" && e.Profile.app != app:
		return e.Profile.Title + ": its app is " + e.Profile.app
	case e.Profile.plain != "" && e.Scheme == "rtmp":
		return e.Profile.Title + ": " + e.Profile.plain
	default:
		return e.Profile.Title + ": " + e.Profile.hint
	}
}

// HintAt returns the hint for a connection that has ended at a step, in brackets after a
// space, or "".
func (e *Endpoint) HintAt(op string) string {
	hint := e.hint()
	switch {
	case hint != "":
	case op == "tls":
		hint = "is it rtmp://?"
	case op == "handshake" && e.Scheme == "rtmp":
		hint = "is it rtmps://?"
	case op == "connect": // nginx-rtmp answers nothing
		hint = "does it know the app?"
	default:
		return ""
	}
	return " (" + hint + ")"
}
