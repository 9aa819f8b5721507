package control

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/probe"
)

// A probe connects to an address that the request names: so many may follow one another,
// one may follow in each interval, and so many may be in progress.
const (
	probeBurst    = 10
	probeInterval = 6 * time.Second
	probesAtOnce  = 2
)

// probes limits the probes of a handler. The zero value has had none.
type probes struct {
	mu      sync.Mutex
	running int
	full    time.Time // when probeBurst may follow one another again
}

// begin begins a probe, or returns a *failure. If it returns nil, end must be called.
func (p *probes) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.full.Before(now) {
		p.full = now
	}
	if p.running >= probesAtOnce {
		return &failure{"too_many", fmt.Sprintf("%d probes are in progress already.", probesAtOnce)}
	}
	if wait := p.full.Sub(now) - (probeBurst-1)*probeInterval; wait > 0 {
		return &failure{"too_many", fmt.Sprintf("There were too many probes. The next may begin in %d s.", int((wait+time.Second-1)/time.Second))}
	}
	p.full = p.full.Add(probeInterval)
	p.running++
	return nil
}

func (p *probes) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
}

// The JSON of a probe.
type (
	shownProbe struct {
		Destination string      `json:"destination"`
		Accepted    bool        `json:"accepted"`
		Verdict     string      `json:"verdict"`
		Warnings    []string    `json:"warnings"`
		Steps       []shownStep `json:"steps"`
		TookMS      int64       `json:"took_ms"`
	}
	shownStep struct {
		Op     string `json:"op"`
		OK     bool   `json:"ok"`
		Text   string `json:"text"`
		Said   string `json:"said,omitempty"`
		TookMS int64  `json:"took_ms"`
	}
)

func (h *handler) probe(r *http.Request) (int, any, error) {
	d, err := h.readDestination(r)
	if err != nil {
		return 0, nil, err
	}
	if err := h.probes.begin(); err != nil {
		return 0, nil, err
	}
	defer h.probes.end()
	report := probe.Run(r.Context(), h.srv, d, nil)
	h.logger.Info("control", "action", "probe", "destination", d, "accepted", report.Accepted)
	switch {
	case errors.Is(report.Err, forward.ErrDuplicate):
		return 0, nil, &failure{"exists", report.Verdict}
	case errors.Is(report.Err, forward.ErrServerClosed):
		return 0, nil, &failure{"conflict", report.Verdict}
	}
	return http.StatusOK, showProbe(report), nil
}

func showProbe(r *probe.Report) shownProbe {
	out := shownProbe{
		Destination: r.Destination, Accepted: r.Accepted, Verdict: r.Verdict, TookMS: r.Took.Milliseconds(),
		Warnings: append([]string{}, r.Warnings...), Steps: make([]shownStep, 0, len(r.Steps)),
	}
	for _, s := range r.Steps {
		out.Steps = append(out.Steps, shownStep{Op: string(s.Op), OK: s.OK, Text: s.Text, Said: s.Said, TookMS: s.Took.Milliseconds()})
	}
	return out
}
