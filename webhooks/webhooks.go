// Package webhooks tells a URL of the host's what happens on a Server: its events, signed
// as in Standard Webhooks (https://www.standardwebhooks.com).
package webhooks

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/backend"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/webhook"
)

// Options say where events go. They are printed without secrets.
type Options struct {
	// URL takes the events. It begins with http:// or https://, and is the host's own
	// configuration: it may lead to any address.
	URL string
	// Secrets sign each request, in this order. A secret is base64 after "whsec_", or
	// its own bytes. Several let a receiver change from one to the next. Default: the
	// requests are not signed.
	Secrets []forward.Secret
	// Kinds are the kinds of events that are sent. Default: all. EventMissed is not
	// one: the next event tells how many were missed.
	Kinds []forward.EventKind
	// Names adds the name of the stream to each event, also where the log masks it.
	Names bool

	// Timeout limits each attempt. Default 10 s.
	Timeout time.Duration
	// Pending is how many events may wait for the receiver, at least 2. If there is
	// one more, the oldest is dropped. Default 1024.
	Pending int

	// Client sends the requests. Default: one without a proxy, which keeps its
	// connection. Redirects are followed only if Client has a CheckRedirect.
	Client *http.Client
	// TLSConfig is that of the default Client.
	TLSConfig *tls.Config
	// Logger is told when the receiver fails, and when it works again. Default
	// slog.Default().
	Logger *slog.Logger
}

// Format writes the number of secrets, for every verb: the URL may contain a token.
func (o Options) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "webhooks.Options with %d secrets", len(o.Secrets))
}

// MarshalText gives the same as Format.
func (o Options) MarshalText() ([]byte, error) { return fmt.Append(nil, o), nil }

// message is the JSON of a request: see docs/observing.md.
type message struct {
	// Type is the Kind of the event, and Timestamp its Time.
	Type      forward.EventKind `json:"type"`
	Timestamp time.Time         `json:"timestamp"`
	// Missed is how many events were dropped immediately before this one, because the
	// receiver was too slow or did not take them.
	Missed uint64 `json:"missed,omitempty"`
	// Name is Event.Name, with Options.Names.
	Name string `json:"name,omitempty"`
	// Data is the event.
	Data forward.Event `json:"data"`
}

const (
	defaultTimeout = 10 * time.Second
	defaultPending = 1024
	// retryMin and retryMax bound the delay before an event is sent again. It doubles
	// with each attempt, and is random between half of it and all of it.
	retryMin = time.Second
	retryMax = 30 * time.Second
	// refusals is how many attempts an event has that the receiver refuses (see
	// refused). An event without an answer is sent until there is one.
	refusals = 5
	// maxReply is how much of an answer is read, so that its connection can be used
	// again.
	maxReply = 4 << 10
)

// Sender sends events to a URL: one after the other, in their order. Its methods are safe
// for concurrent use.
//
// An answer with a status of 200 to 299 takes an event. Without an answer, or with a
// status of 408, 425, 429 or 500 and more, the same event is sent again after 1 s, then
// after twice as long up to 30 s, for as long as it is among the Pending ones. With any
// other status it is sent 5 times and then dropped. Each attempt has the same webhook-id.
type Sender struct {
	sends  atomic.Pointer[sends]
	queue  *queue
	outage hostcode.Outage
}

// sends are Options, checked and with defaults.
type sends struct {
	Options
	keys   [][]byte
	client *http.Client
	own    *http.Transport // of the default Client, else nil
}

func (o Options) prepare() (*sends, error) {
	s := &sends{Options: o}
	if err := webhook.CheckURL(o.URL); err != nil {
		return nil, fmt.Errorf("webhooks: URL: %w", err)
	}
	for i, secret := range o.Secrets {
		key, err := webhook.Key(string(secret))
		if err == nil && len(key) == 0 {
			err = errors.New("it is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("webhooks: secret %d: %w", i+1, err)
		}
		s.keys = append(s.keys, key)
	}
	for _, k := range o.Kinds {
		if !slices.Contains(kinds, k) {
			return nil, fmt.Errorf("webhooks: %q: expected one of %v", k, kinds)
		}
	}
	if s.Timeout <= 0 {
		s.Timeout = defaultTimeout
	}
	if s.Pending <= 0 {
		s.Pending = defaultPending
	}
	s.Pending = max(s.Pending, 2)
	s.Logger = cmp.Or(s.Logger, slog.Default())
	c := o.Client
	if c == nil {
		s.own = &http.Transport{
			DialContext:            (&net.Dialer{}).DialContext,
			TLSClientConfig:        o.TLSConfig,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		}
		c = &http.Client{Transport: s.own}
	}
	s.client = webhook.Client(c)
	return s, nil
}

// kinds are those that Options.Kinds may have.
var kinds = []forward.EventKind{
	forward.EventPublish, forward.EventLive, forward.EventCodec, forward.EventPublisherLost, forward.EventPublisher, forward.EventUnpublish,
	forward.EventDestination, forward.EventFirstKeyframe, forward.EventDropped, forward.EventRetry,
	forward.EventPlay, forward.EventStop, forward.EventResolverFailing, forward.EventResolverWell,
}

// New returns a Sender. It returns an error that shows no secret if the Options are
// invalid.
func New(o Options) (*Sender, error) {
	with, err := o.prepare()
	if err != nil {
		return nil, err
	}
	s := &Sender{queue: newQueue()}
	s.sends.Store(with)
	return s, nil
}

// Reload replaces the Options: of events that come from now on, and for attempts that
// begin from now on. It returns an error, and changes nothing, if they are invalid.
func (s *Sender) Reload(o Options) error {
	with, err := o.prepare()
	if err != nil {
		return err
	}
	s.sends.Swap(with).close()
	s.queue.again() // the receiver may be another one
	return nil
}

// close gives the connections of the default Client back.
func (s *sends) close() {
	if s.own != nil {
		s.own.CloseIdleConnections()
	}
}

// Format writes the name of the type, for every verb.
func (s *Sender) Format(f fmt.State, _ rune) { io.WriteString(f, "webhooks.Sender") }

// MarshalText gives the same as Format.
func (s *Sender) MarshalText() ([]byte, error) { return []byte("webhooks.Sender"), nil }

// Run sends events, which must be of a Server.Events with ctx. It returns nil when the
// Server has ended and everything is sent, or ctx's error when ctx ends: what waits then
// is dropped. Run may be called once.
func (s *Sender) Run(ctx context.Context, events iter.Seq[forward.Event]) error {
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		defer s.queue.close()
		for ev := range events {
			s.take(ev)
		}
	}()
	err := s.deliver(ctx)
	<-collected
	s.sends.Load().close()
	return err
}

// take queues an event that is wanted.
func (s *Sender) take(ev forward.Event) {
	o := s.sends.Load()
	switch {
	case ev.Kind == forward.EventMissed:
		s.queue.missed(ev.Count)
	case len(o.Kinds) == 0 || slices.Contains(o.Kinds, ev.Kind):
		s.queue.push(ev, o.Pending)
	}
}

// deliver sends what is queued until the queue is closed and empty, or ctx ends.
func (s *Sender) deliver(ctx context.Context) error {
	delay := time.Duration(0)
	for {
		it := s.queue.next(ctx)
		if it == nil {
			return ctx.Err()
		}
		o := s.sends.Load()
		err := o.send(ctx, it)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.note(o, err)
		done := err == nil
		if it.refused += refused(err); it.refused >= refusals {
			done = true
		}
		s.queue.sent(it, done, err == nil)
		if done {
			delay = 0
			continue
		}
		delay = min(max(2*delay, retryMin), retryMax)
		s.queue.pause(ctx, delay/2+rand.N(delay/2+1))
	}
}

// note logs a failure, but not each, and that the receiver works again.
func (s *Sender) note(o *sends, err error) {
	if err == nil {
		if lasted, notLogged, ok := s.outage.Over(); ok {
			o.Logger.Info("webhook works again", hostcode.WithLeftOut(notLogged, "url", backend.Redact(o.URL), "after", lasted.Round(time.Millisecond).String())...)
		}
		return
	}
	if notLogged, ok := s.outage.Note(hostcode.CauseOf(err)); ok {
		o.Logger.Warn("webhook failed", hostcode.WithLeftOut(notLogged, "url", backend.Redact(o.URL), "err", err)...)
	}
}

// statusError is an answer that does not take an event.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

// refused is 1 if a repetition would hardly change the answer.
func refused(err error) int {
	var status statusError
	if !errors.As(err, &status) || status >= 500 {
		return 0
	}
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return 0
	}
	return 1
}

// send is one attempt.
func (s *sends) send(ctx context.Context, it *item) error {
	m := message{Type: it.ev.Kind, Timestamp: it.ev.Time, Missed: it.missed, Data: it.ev}
	if s.Names {
		m.Name = it.ev.Name()
	}
	body, err := webhook.Encode(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	header := webhook.Header()
	if len(s.keys) > 0 {
		webhook.Sign(header, it.id, time.Now(), body, s.keys...)
	} else {
		header.Set("webhook-id", it.id)
	}
	status, err := webhook.Post(ctx, s.client, s.URL, header, body, maxReply)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", s.Timeout)
	case err != nil:
		return err
	case status < 200 || status > 299:
		return statusError(status)
	}
	return nil
}
