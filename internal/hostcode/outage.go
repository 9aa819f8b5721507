package hostcode

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrBusy is the error if a host's backend was not asked, because too many requests are in
// progress.
var ErrBusy = errors.New("forward: busy")

const (
	// OutageEvery is the time between two log lines about something that still fails.
	OutageEvery = 10 * time.Minute
	// OutageAgain is the least time between two log lines of a cause if there was a
	// recovery between them.
	OutageAgain = time.Minute
)

// maxCauses is the number of causes of an outage that are distinguished.
const maxCauses = 8

// Outage decides which failures of a part of the host are logged. The first failure of a
// cause is logged immediately. Later ones are logged every OutageEvery, or every
// OutageAgain after a recovery, with the number of those left out. The recovery is logged
// once. The zero value has not failed.
type Outage struct {
	mu     sync.Mutex
	since  time.Time // of the first logged failure since the last success; zero if there is none
	causes map[string]*failures
}

// failures counts the failures of one cause.
type failures struct {
	told      time.Time // when one was last logged
	next      time.Time // when the next one may be logged
	notLogged int
}

// Note records a failure. ok reports whether it must be logged. notLogged is the number of
// failures of its cause that were left out since the last line.
func (o *Outage) Note(cause string) (notLogged int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	f := o.causes[cause]
	if f == nil && len(o.causes) >= maxCauses {
		cause = "other"
		f = o.causes[cause]
	}
	if f == nil {
		if o.causes == nil {
			o.causes = make(map[string]*failures)
		}
		f = &failures{}
		o.causes[cause] = f
	}
	if now.Before(f.next) {
		f.notLogged++
		return 0, false
	}
	if o.since.IsZero() {
		o.since = now
	}
	notLogged = f.notLogged
	f.told, f.next, f.notLogged = now, now.Add(OutageEvery), 0
	return notLogged, true
}

// Over records a success. ok reports whether it must be logged, because a failure has been
// logged since the last success. lasted is the time since that failure.
func (o *Outage) Over() (lasted time.Duration, notLogged int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return 0, 0, false
	}
	now := time.Now()
	for cause, f := range o.causes {
		notLogged += f.notLogged
		f.next = f.told.Add(OutageAgain)
		if f.notLogged = 0; !now.Before(f.next) {
			delete(o.causes, cause)
		}
	}
	lasted = now.Sub(o.since)
	o.since = time.Time{}
	return lasted, notLogged, true
}

// WithLeftOut appends to args the number of lines that were left out, if it is not 0.
func WithLeftOut(n int, args ...any) []any {
	if n > 0 {
		args = append(args, "not_logged", n)
	}
	return args
}

// CauseOf returns the same text for failures that differ only in addresses and times.
func CauseOf(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	var no syscall.Errno
	var certificate x509.CertificateInvalidError
	switch {
	case errors.Is(err, ErrBusy):
		return "busy"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer"
	case errors.As(err, &dns):
		return "name"
	case errors.As(err, &no):
		return no.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.As(err, &certificate): // its text contains the time
		return fmt.Sprint("certificate, reason ", certificate.Reason)
	case errors.As(err, &op):
		return op.Op
	}
	return err.Error()
}
