package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// OpRedirect is the decision about a redirect. Only a Step has it.
const OpRedirect = "redirect"

// Step is a step of Open that has ended. The steps follow one another; a step ends where
// the next begins.
type Step struct {
	Op   Op
	At   endpoint.Endpoint // where the step was made
	Took time.Duration
	Err  error // nil if it has succeeded

	Addrs  []netip.Addr         // OpResolve: of the name
	Addr   net.Addr             // OpDial: that has answered; may be the host's
	TLS    *tls.ConnectionState // OpTLS: as far as the handshake got
	Digest bool                 // OpHandshake: ours has a digest
	Video  []string             // OpConnect: FourCCs that the server lists; "*" is all
	Audio  []string             // OpConnect
	Code   string               // OpConnect, OpPublish: of the server's acceptance, masked and bounded
	Text   string               // OpConnect, OpPublish
	To     string               // OpRedirect: masked
}

// WithTrace returns a context for Open, which calls step at the end of each of its steps,
// one call after the other.
func WithTrace(ctx context.Context, step func(Step)) context.Context {
	return context.WithValue(ctx, traceKey{}, &trace{step: step})
}

type traceKey struct{}

// trace is the progress of an Open. It is nil if nobody wants to know.
type trace struct {
	step  func(Step)
	at    endpoint.Endpoint
	began time.Time
	now   Op // the step of rtmp.Client that is being waited for
	code  string
	text  string
}

func traceOf(ctx context.Context) *trace {
	t, _ := ctx.Value(traceKey{}).(*trace)
	return t
}

// begin begins a connection.
func (t *trace) begin(at endpoint.Endpoint) {
	if t != nil {
		t.at, t.began, t.now = at, time.Now(), ""
	}
}

// ended reports the end of a step; fill adds what is known about it.
func (t *trace) ended(op Op, err error, fill func(*Step)) {
	if t == nil {
		return
	}
	now := time.Now()
	s := Step{Op: op, At: t.at, Took: now.Sub(t.began), Err: err}
	t.began = now
	if fill != nil {
		fill(&s)
	}
	t.step(s)
}

// resolved reports the end of a look-up. An address is not looked up.
func (t *trace) resolved(host string, addrs []netip.Addr, err error) {
	if _, perr := netip.ParseAddr(host); perr != nil || err != nil {
		t.ended(OpResolve, err, func(s *Step) { s.Addrs = addrs })
	}
}

// secured reports the end of the handshake of TLS.
func (t *trace) secured(tc *tls.Conn, err error) {
	t.ended(OpTLS, err, func(s *Step) {
		state := tc.ConnectionState()
		s.TLS = &state
	})
}

// said keeps the words with which the server accepts.
func (t *trace) said(code, text string) { t.code, t.text = code, text }

// next reports that a step of c begins, or, with an empty op, that the last one has ended
// with err.
func (t *trace) next(c *rtmp.Client, op Op, err error) {
	if t == nil {
		return
	}
	if t.now != "" {
		t.ended(t.now, err, func(s *Step) {
			s.Code, s.Text = t.code, t.text
			if s.Op == OpConnect {
				s.Video, s.Audio = c.Codecs()
			}
		})
	}
	t.now, t.code, t.text = op, "", ""
}
