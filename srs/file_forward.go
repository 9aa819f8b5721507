package srs

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/conf"
	"github.com/rtmp-forward/forward/internal/option"
	"github.com/rtmp-forward/forward/resolve"
)

// forward reads the forward block of a vhost.
func (f *File) forward(name string, d *conf.Directive, v *forward.Vhost) (err error) {
	var enabled bool
	var to []forward.Destination
	var backend *resolve.HTTP
	var is backendFile
	v.Resolver = forward.MustStatic()
	for _, d := range d.Block {
		switch d.Name {
		case "enabled":
			enabled = on(d)
		case "destination":
			for i, u := range d.Args {
				dest := destination(u, d.Block)
				if _, err := static(dest); err != nil {
					return valueError(d, i, "destination", err)
				}
				to = append(to, dest)
			}
		case "backend":
			backend = &resolve.HTTP{URL: d.Args[0]}
			if err := backend.Validate(); err != nil {
				return fmt.Errorf("%s: %w", d.ArgPos(0), err)
			}
			is.url = d.Args[0]
		case "timeout_ms":
			is.timeout = milliseconds(d)
		case "refresh_ms":
			v.RefreshInterval = milliseconds(d)
		}
	}
	if backend != nil {
		backend.Timeout = is.timeout
		for _, d := range d.Block {
			if d.Name == "on_failure" {
				is.onFailure = d.Args[0]
				if backend.OnFailure, err = failureOf(d, is.timeout); err != nil {
					return err
				}
			}
		}
	}
	switch {
	case !enabled:
	case backend != nil:
		v.Resolver = backend
		f.backends[name] = is
	default:
		v.Resolver, err = forward.StaticDestinations(to...)
	}
	return err
}

// static returns a resolver that sends every stream to d. Its error is that of d alone,
// without the position in a list.
func static(d forward.Destination) (forward.DestinationResolver, error) {
	r, err := forward.StaticDestinations(d)
	return r, errors.Unwrap(err)
}

// failureOf returns the policy of on_failure.
func failureOf(d *conf.Directive, timeout time.Duration) (resolve.FailurePolicy, error) {
	switch v := d.Args[0]; {
	case v == "closed":
		return resolve.FailClosed, nil
	case v == "open":
		return resolve.FailOpen, nil
	case v == "last_good":
		return resolve.LastGood, nil
	case strings.HasPrefix(v, "http://"), strings.HasPrefix(v, "https://"):
		h := &resolve.HTTP{URL: v, Timeout: timeout}
		if err := h.Validate(); err != nil {
			return nil, fmt.Errorf("%s: %w", d.ArgPos(0), err)
		}
		return resolve.Fallback(h), nil
	default:
		r, err := static(forward.Destination{URL: v})
		if err != nil {
			return nil, valueError(d, 0, "destination", err)
		}
		return resolve.Fallback(r), nil
	}
}

// destination returns the destination of a URL with the options of a block, which may be
// nil.
func destination(url string, block []*conf.Directive) forward.Destination {
	to := forward.Destination{URL: url}
	for _, d := range block {
		for i, o := range option.OfDirective(d.Name) {
			set(&to, o, d.Args[i])
		}
	}
	return to
}

// set sets an option to a value that conf.Check has accepted.
func set(to *forward.Destination, o option.Option, arg string) {
	switch v := o.Value.(type) {
	case *option.Switch:
		v.Set(to, arg == "on")
	case *option.Number:
		v.Set(to, integer(arg))
	case *option.Milliseconds:
		v.Set(to, orNone(time.Duration(integer(arg))*time.Millisecond))
	case option.Field[string]:
		v.Set(to, arg)
	}
}
