package outsider

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
)

const (
	maxReply     = 64 << 10 // bytes
	maxQuestions = 8        // concurrent requests
)

// Resolver asks a backend where a stream goes. The backend receives the publish as JSON
// and answers {"urls":["rtmp://…"],"ttl":60}; status 403 refuses the publisher. If the
// backend fails, a stream keeps its previous destinations.
type Resolver struct {
	URL    string
	Client *http.Client // default http.DefaultClient

	once  sync.Once
	turns chan struct{}

	mu   sync.Mutex
	last map[string][]forward.Destination // by stream name
}

var _ forward.TTLResolver = (*Resolver)(nil)

// ResolveDestinations is ResolveTTL without the TTL.
func (r *Resolver) ResolveDestinations(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
	ds, _, err := r.ResolveTTL(ctx, req)
	return ds, err
}

// ResolveTTL asks the backend.
func (r *Resolver) ResolveTTL(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
	r.once.Do(func() { r.turns, r.last = make(chan struct{}, maxQuestions), make(map[string][]forward.Destination) })
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	default:
		return nil, 0, fmt.Errorf("backend: %w", forward.ErrBusy)
	}
	ds, ttl, err := r.ask(ctx, req)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.last[req.Name()] = ds
		return ds, ttl, nil
	}
	if ctx.Err() != nil || errors.Is(err, forward.ErrRefused) {
		return nil, 0, err
	}
	forward.Logger(ctx).Warn("backend failed", "source", req, "id", req.ID(), "err", err)
	last, known := r.last[req.Name()]
	if forward.IsRefresh(ctx) || !known { // an error leaves a live stream unchanged
		return nil, 0, loggedError{err}
	}
	return last, 0, nil
}

// loggedError is an error that the Server need not log again.
type loggedError struct{ error }

func (loggedError) Logged() bool    { return true }
func (e loggedError) Unwrap() error { return e.error }

type question struct {
	ServerID string   `json:"server_id"`
	ClientID string   `json:"client_id"`
	StreamID string   `json:"stream_id"`
	IP       string   `json:"ip"`
	User     string   `json:"user"`
	Vhost    string   `json:"vhost"`
	App      string   `json:"app"`
	Stream   string   `json:"stream"`
	Param    string   `json:"param"`
	TcURL    string   `json:"tcUrl"`
	PageURL  string   `json:"pageUrl"`
	Hops     []string `json:"hops"`
}

type reply struct {
	URLs []string `json:"urls"`
	TTL  float64  `json:"ttl"` // seconds
}

func (r *Resolver) ask(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
	body, err := json.Marshal(question{
		req.ServerID, req.ClientID, req.ID(), req.IP(), req.User, req.Vhost, req.App, req.Stream,
		req.Param, req.TcURL, req.PageURL, req.Hops,
	})
	if err != nil {
		return nil, 0, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	post.Header.Set("Content-Type", "application/json")
	answer, err := cmp.Or(r.Client, http.DefaultClient).Do(post)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return nil, 0, fmt.Errorf("%w: %w", forward.ErrRefused, &forward.StatusError{Description: "The backend refuses the stream."})
	default:
		return nil, 0, fmt.Errorf("backend answered %s", answer.Status)
	}
	var to reply
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxReply)).Decode(&to); err != nil {
		return nil, 0, fmt.Errorf("backend: %w", err)
	}
	var ds []forward.Destination
	for i, u := range to.URLs {
		d := forward.Destination{URL: u, NoLinkLocal: true, Untrusted: saidBy(req, u)}
		if err := d.Validate(); err != nil {
			return nil, 0, fmt.Errorf("urls[%d]: %w", i, err)
		}
		ds = append(ds, d)
	}
	return ds, time.Duration(to.TTL * float64(time.Second)), nil
}

// saidBy reports whether the publisher may have named the host of a URL.
func saidBy(req *forward.Request, to string) bool {
	u, err := url.Parse(to)
	if err != nil || u.Hostname() == "" {
		return true
	}
	return strings.Contains(req.Param+req.TcURL+req.PageURL+req.Stream, u.Hostname())
}
