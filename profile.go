package forward

import "strings"

// profile is what is known of a platform by the host of its URLs. Servers that
// people run themselves (SRS, nginx-rtmp, MediaMTX, Wowza's engine) cannot be
// told by their host; the defaults of Destination suit them.
type profile struct {
	name  string
	hosts []string // domains; their subdomains are meant too
	app   string   // the app where the URL shows none, or empty
	tls   bool     // rtmp:// is refused, mostly without a word
	hint  string   // what else to look at when it does not work
}

var profiles = []profile{
	{
		name:  "YouTube",
		hosts: []string{"rtmps.youtube.com"},
		tls:   true,
		hint:  "the stream needs an audio track",
	},
	{
		name:  "YouTube",
		hosts: []string{"rtmp.youtube.com"},
		hint:  "rtmps:// needs a host in rtmps.youtube.com; the stream needs an audio track",
	},
	{
		name:  "Facebook",
		hosts: []string{"facebook.com", "fbcdn.net"},
		tls:   true,
		hint:  "the key is used up about a day after it was given out",
	},
	{
		name:  "Twitch",
		hosts: []string{"twitch.tv"},
		hint:  "regular ingest takes H.264 only",
	},
	{
		name:  "Amazon IVS (Kick, Twitch)",
		hosts: []string{"live-video.net"},
		app:   "app",
		hint:  "rtmp:// is refused where it is not enabled",
	},
	{
		name:  "Akamai",
		hosts: []string{"akamaientrypoint.net"},
		hint:  "user and password are needed",
	},
	{
		name:  "Wowza",
		hosts: []string{"entrypoint.cloud.wowza.com"},
		hint:  "user and password are needed unless disabled for the stream",
	},
}

// profileOf is the profile for a host name, or nil.
func profileOf(host string) *profile {
	host = "." + strings.ToLower(strings.TrimSuffix(host, "."))
	for i := range profiles {
		for _, domain := range profiles[i].hosts {
			if strings.HasSuffix(host, "."+domain) {
				return &profiles[i]
			}
		}
	}
	return nil
}

// complete adds the app where the platform shows its URL without: then a
// single path element is the key.
func (p *profile) complete(e *endpoint) {
	if p == nil || p.app == "" {
		return
	}
	if e.key == "" && e.app != p.app && !strings.Contains(e.app, "/") {
		e.app, e.key = "", e.app
	}
	if e.app == "" {
		e.app = p.app
	}
}

// hint says what may be wrong when e cannot be reached or refuses, in one
// sentence, or nothing. It holds no secret.
func (e *endpoint) hint() string {
	switch {
	case e.profile == nil:
		return ""
	case e.profile.tls && e.scheme == "rtmp":
		return e.profile.name + " wants rtmps://"
	default:
		return e.profile.name + ": " + e.profile.hint
	}
}

// hintAt is the hint for a connection that has ended at a step, in brackets
// with a space before, or nothing.
func (e *endpoint) hintAt(op string) string {
	hint := e.hint()
	switch {
	case hint != "":
	case op == "tls":
		hint = "is it rtmp://?"
	case op == "handshake" && e.scheme == "rtmp":
		hint = "is it rtmps://?"
	case op == "connect": // nginx-rtmp answers nothing
		hint = "does it know the app?"
	default:
		return ""
	}
	return " (" + hint + ")"
}
