package srs

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/conf"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/option"
	"github.com/rtmp-forward/forward/internal/sys"
)

// findWarnings adds warnings for settings that have no effect or are likely mistakes.
func (f *File) findWarnings(tree *conf.File) {
	listeners := f.listeners(tree)
	for _, d := range tree.Root {
		switch d.Name {
		case "rtmps":
			f.warnUnused(d, "its addresses are not listened on")
			if f.RTMPS != nil && len(f.RTMPS.Listen) == 0 {
				f.warn(d.Pos, "rtmps is on, but has no listen")
			}
		case "publish_auth":
			f.warnUnused(d, "nobody is asked for a password")
		case "http":
			f.warnHTTP(d)
		case "webhooks":
			if len(f.Webhooks.Secrets) == 0 {
				f.warn(d.Pos, "webhooks has no secret: its receiver cannot tell who sends the events")
			}
		case "destination_table":
			if f.HTTP == nil {
				f.warn(d.Pos, "destination_table without http: nothing can change the table while the server runs")
			}
		case "vhost":
			for _, d := range d.Block {
				switch d.Name {
				case "forward":
					f.warnForward(d, listeners)
				case "http_hooks":
					f.warnUnused(d, "its URLs are not called")
				}
			}
		}
	}
}

// directives returns the directives in a block that have the given name.
func directives(block []*conf.Directive, name string) (found []*conf.Directive) {
	for _, d := range block {
		if d.Name == name {
			found = append(found, d)
		}
	}
	return found
}

// warnUnused warns of a block that has no effect because enabled is missing. "enabled
// off" is intended.
func (f *File) warnUnused(d *conf.Directive, so string) {
	if len(d.Block) > 0 && len(directives(d.Block, "enabled")) == 0 {
		f.warn(d.Pos, fmt.Sprintf(`%s has no "enabled on": %s`, d.Name, so))
	}
}

// warnHTTP warns of addresses of http to which the token travels unencrypted.
func (f *File) warnHTTP(d *conf.Directive) {
	if f.HTTP.TLS != nil {
		return
	}
	for _, d := range directives(d.Block, "listen") {
		for i, a := range localAddresses(d.Args) {
			host, _, _ := net.SplitHostPort(a)
			ip, err := netip.ParseAddr(host)
			if !strings.EqualFold(host, "localhost") && (err != nil || !ip.Unmap().IsLoopback()) {
				f.warn(d.ArgPos(i), "other machines may reach this address, and requests to it carry the token unencrypted: add cert and key, or put a proxy with TLS in front of 127.0.0.1")
			}
		}
	}
}

// warnForward checks a forward block.
func (f *File) warnForward(d *conf.Directive, listeners []listenerAt) {
	destinations, backends := directives(d.Block, "destination"), directives(d.Block, "backend")
	f.warnUnused(d, "nothing is forwarded")
	enabled := directives(d.Block, "enabled")
	if len(enabled) > 0 && on(enabled[0]) && len(destinations)+len(backends) == 0 {
		f.warn(d.Pos, "forward is on, but has neither destination nor backend")
	}
	places := make(map[string]conf.Position)
	for _, d := range destinations {
		if len(backends) > 0 {
			f.warn(d.Pos, fmt.Sprintf("this destination is not used: the backend at %s decides where streams go", backends[0].Pos))
		}
		for i, u := range d.Args {
			f.warnDestination(d.ArgPos(i), destination(u, d.Block), listeners, places)
		}
	}
	for _, name := range []string{"timeout_ms", "on_failure"} {
		if of := directives(d.Block, name); len(of) > 0 && len(backends) == 0 {
			f.warn(of[0].Pos, name+" has no effect without a backend")
		}
	}
}

// warnDestination checks a destination. places are those of the forward block so far.
func (f *File) warnDestination(pos conf.Position, given forward.Destination, listeners []listenerAt, places map[string]conf.Position) {
	d, at, err := lead(given)
	if err != nil {
		return
	}
	if i := slices.IndexFunc(listeners, func(l listenerAt) bool { return l.takes(at.Host, at.Port) }); i >= 0 {
		f.warn(pos, fmt.Sprintf("this server listens there itself (%s): a stream is not sent back to where it comes from", listeners[i].pos))
	}
	if first, again := places[at.Place()]; again {
		f.warn(pos, fmt.Sprintf("duplicate of the destination at %s: the stream is sent there once", first))
	} else {
		places[at.Place()] = pos
	}
	ownName := given.StreamKey == "" && strings.HasPrefix(string(d.StreamKey), "[stream]") && !strings.Contains(given.URL, "[stream]")
	if ownName && at.Profile.IsPlatform() {
		f.warn(pos, fmt.Sprintf("no stream_key: %s gets the stream's own name as its key", at.Profile.Title))
	}
}

// lead returns the place of a destination for a stream whose name consists of
// placeholders.
func lead(given forward.Destination) (d forward.Destination, at endpoint.Endpoint, err error) {
	r, err := static(given)
	if err != nil {
		return d, at, err
	}
	ds, err := r.ResolveDestinations(context.Background(), &forward.Request{
		Vhost: "[vhost]", App: "[app]", Stream: "[stream]", Param: "[param]",
	})
	if err != nil {
		return d, at, err
	}
	at, err = option.Endpoint(ds[0])
	return ds[0], at, err
}

// listenerAt is an address to listen on, and its position in the file.
type listenerAt struct {
	host, port string
	pos        conf.Position
}

// listeners returns all addresses to listen on, and warns of duplicates.
func (f *File) listeners(tree *conf.File) (all []listenerAt) {
	add := func(block []*conf.Directive, addresses func([]string) []string) {
		for _, d := range directives(block, "listen") {
			for i, a := range addresses(d.Args) {
				host, port, _ := net.SplitHostPort(a)
				l := listenerAt{host, port, d.ArgPos(i)}
				if j := slices.IndexFunc(all, l.collides); j >= 0 {
					f.warn(l.pos, fmt.Sprintf("this address collides with the one at %s", all[j].pos))
				}
				all = append(all, l)
			}
		}
	}
	add(tree.Root, addresses)
	for _, d := range tree.Root {
		switch {
		case d.Name == "rtmp" || d.Name == "rtmps" && f.RTMPS != nil:
			add(d.Block, addresses)
		case d.Name == "http":
			add(d.Block, localAddresses)
		}
	}
	return all
}

// collides reports whether l and o cannot both be listened on.
func (l listenerAt) collides(o listenerAt) bool {
	return l.port == o.port && l.port != "0" && (l.everywhere() || o.everywhere() || l.host == o.host)
}

func (l listenerAt) everywhere() bool {
	ip, err := netip.ParseAddr(l.host)
	return l.host == "" || err == nil && ip.IsUnspecified()
}

// takes reports whether connections to a host and port arrive at l. The only name that
// it knows is localhost.
func (l listenerAt) takes(host, port string) bool {
	if l.port != port {
		return false
	}
	if strings.EqualFold(l.host, host) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if strings.EqualFold(host, "localhost") {
		ip, err = netip.MustParseAddr("127.0.0.1"), nil
	}
	if err != nil {
		return false
	}
	own, err := netip.ParseAddr(l.host)
	switch {
	case l.everywhere():
		return sys.IsOurs(ip.Unmap())
	case strings.EqualFold(l.host, "localhost"):
		return ip.IsLoopback()
	}
	return err == nil && own.Unmap() == ip.Unmap()
}
