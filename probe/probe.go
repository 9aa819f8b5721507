// Package probe tries a destination without a stream, and describes in words for a person
// what has happened: the look-up of the name, the connection, TLS, the handshake, the
// password, redirects, the codecs that the server lists, and its answer to the publish.
//
// To the destination a probe is a publish without media that ends within a second.
// Warnings says whether that may have an effect.
package probe

import (
	"context"
	"errors"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// Report is what a probe has found. Its texts contain no secret. What the destination has
// said is in Step.Said, and names in quotes are those of its certificate.
type Report struct {
	Destination string        // as printed, with its secrets masked
	Accepted    bool          // the destination has accepted the publish
	Verdict     string        // one or two sentences: what is wrong, and what to do about it
	Warnings    []string      // those of Warnings
	Steps       []Step        // in the order in which they ended; only the last may have failed for good
	Took        time.Duration // all of it
	// Err is why the destination was not probed or has not accepted: that of
	// forward.Server.Probe. It is nil if Accepted.
	Err error
}

// Step is a step of a probe that has ended. A destination that asks for a password, sends
// the client to another place, or requires another form of the handshake makes for a
// second connection with the same steps.
type Step struct {
	// Op is the step, and besides those of package forward OpRedirect and OpLeave.
	Op forward.Op
	// OK says that the step has succeeded. If it is false and another step follows, the
	// probe has tried something else.
	OK   bool
	Text string // sentences
	// Said are the destination's own words. They are at most 256 bytes long, without
	// control and other unprintable characters, and may say anything.
	Said string
	// Took is the time since the end of the step before.
	Took time.Duration
}

// Steps that only a probe has.
const (
	OpRedirect forward.Op = upstream.OpRedirect // whether a redirect is followed
	OpLeave    forward.Op = "leave"             // the end of the accepted publish
)

// Run probes a destination with srv, as forward.Server.Probe does. step, if not nil, is
// called at the end of each step, one call after the other. Run returns when it has left
// the destination. It is safe for concurrent use.
func Run(ctx context.Context, srv *forward.Server, d forward.Destination, step func(Step)) *Report {
	if ctx == nil {
		ctx = context.Background()
	}
	began := time.Now()
	p := &probe{report: Report{Destination: d.String(), Warnings: Warnings(d)}, tell: step, last: began}
	p.at, _ = parse(d)
	err := srv.Probe(upstream.WithTrace(ctx, p.ended), d)
	p.report.Err, p.report.Accepted = err, err == nil
	p.stopped = ctx.Err()
	if err == nil {
		p.add(Step{Op: OpLeave, OK: true, Text: "Left without sending media.", Took: time.Since(p.last)})
		p.report.Verdict = p.accepted()
	} else {
		var de *forward.DestinationError
		if errors.As(err, &de) && p.facts.Op != upstream.Op(de.Op) && !p.turnedAway() { // not noticed as a step
			p.flush()
			p.facts = upstream.Step{Op: upstream.Op(de.Op), Took: time.Since(p.last)}
		}
		what, do := p.explain(err)
		p.failed(err, what)
		p.report.Verdict = join(what, do)
	}
	p.report.Took = time.Since(began)
	return &p.report
}

// Warnings returns sentences about what a probe of d may cause, and about what the
// destination may not handle. It is empty if there is nothing to say, or d is invalid.
func Warnings(d forward.Destination) (ws []string) {
	ep, err := parse(d)
	if err != nil {
		return nil
	}
	if ep.Profile.StartsBroadcasts() {
		ws = append(ws, ep.Profile.Title+" may start a broadcast, and tell viewers, when an encoder connects. "+
			"A probe is such a connection, although it sends no media and leaves within a second.")
	}
	if w := ep.Warning(); w != "" {
		ws = append(ws, sentence(w))
	}
	return ws
}

func parse(d forward.Destination) (endpoint.Endpoint, error) {
	return endpoint.Spec{
		URL: d.URL, StreamKey: string(d.StreamKey), User: d.User, Password: string(d.Password),
		TcURL: d.TcURL, ServerName: d.ServerName, Profile: string(d.Profile),
	}.Parse()
}

// probe is a probe in progress. Its fields are used by one goroutine at a time.
type probe struct {
	report Report
	tell   func(Step)
	last   time.Time // end of the last step, at first the beginning

	at       endpoint.Endpoint // of the last step
	facts    upstream.Step     // the last step; its Err is nil if it has been added
	dialled  bool
	asked    int           // how often the server has asked for user or password
	redirect upstream.Step // the last one
	stopped  error         // of the caller's context
}

func (p *probe) add(s Step) {
	p.last = time.Now()
	p.report.Steps = append(p.report.Steps, s)
	if p.tell != nil {
		p.tell(s)
	}
}

// ended describes a step. A failed one is added when the next begins or the probe ends:
// only then it is known what has failed.
func (p *probe) ended(s upstream.Step) {
	p.flush()
	p.at, p.facts = s.At, s
	if s.Op == upstream.OpRedirect {
		p.redirect = s
	}
	text, ok := p.describe(s)
	if !ok {
		return
	}
	p.facts.Err = nil
	p.add(Step{Op: forward.Op(s.Op), OK: true, Text: text, Said: said(s.Code, s.Text), Took: s.Took})
}

// flush adds a failed step that something else follows.
func (p *probe) flush() {
	if p.facts.Err == nil {
		return
	}
	what, _ := p.explain(&forward.DestinationError{Op: forward.Op(p.facts.Op), Err: p.facts.Err})
	p.add(Step{Op: forward.Op(p.facts.Op), Text: what, Took: p.facts.Took})
	p.facts.Err = nil
}

// failed adds the step that has ended the probe, if one has.
func (p *probe) failed(err error, what string) {
	var de *forward.DestinationError
	if !errors.As(err, &de) {
		return
	}
	op := de.Op
	if p.turnedAway() {
		op = OpRedirect
	}
	p.add(Step{Op: op, Text: what, Said: saidBy(err), Took: p.facts.Took})
}

// turnedAway reports whether the last step is a redirect that is not followed.
func (p *probe) turnedAway() bool { return p.facts.Op == upstream.OpRedirect && p.facts.Err != nil }
