package ingest

import (
	"net"
	"syscall"
	"time"
	"unsafe"

	"github.com/rtmp-forward/forward/internal/sys"
)

// park has r's connection leave Go's poller for that of r's shard. It is false where the
// connection can't.
func (r *Reader) park() bool {
	own, ok := r.conn.(*sys.Conn)
	if !ok {
		return false
	}
	if own.Parked() {
		return true
	}
	r.setLow(1) // it would silence this poller, too
	if !own.Park(r.seat) {
		return false
	}
	r.setDeadline(r.limit) // Finish may have set that of Go's poller
	return true
}

func unpark(c net.Conn) {
	if own, ok := c.(*sys.Conn); ok {
		own.Unpark()
	}
}

// edgeTriggered is EPOLLET, to which package syscall gives the wrong sign.
const edgeTriggered = 1 << 31

// poller tells which seats have something to read. The zero poller has no descriptor.
type poller struct {
	fd     int // of epoll, of which 0 is none
	closed bool
	seats  map[int32]*seat // by descriptor
	events []syscall.EpollEvent
}

// add has p tell of a descriptor's seat. It is false where p can't.
func (p *poller) add(fd int, st *seat) bool {
	if p.fd == 0 {
		if p.closed {
			return false
		}
		ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		if err != nil {
			return false
		}
		p.fd, p.seats, p.events = ep, make(map[int32]*seat), make([]syscall.EpollEvent, shardSize)
	}
	// Edge-triggered: what it has told of once it does not look at once more.
	e := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | edgeTriggered, Fd: int32(fd)}
	if syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &e) != nil {
		return false
	}
	p.seats[int32(fd)] = st
	return true
}

func (p *poller) remove(fd int) {
	if p.fd == 0 {
		return
	}
	syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_DEL, fd, nil)
	delete(p.seats, int32(fd))
}

// read reads for those that wait and have something, and appends them. They wait no more.
// The shard's mu keeps the descriptors from being closed.
func (p *poller) read(to []*seat) []*seat {
	if len(p.seats) == 0 {
		return to
	}
	// It does not wait, and the scheduler would only be disturbed by being told of it.
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.fd),
		uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), 0, 0, 0)
	if errno != 0 {
		return to
	}
	for i := range p.events[:n] {
		e := &p.events[i]
		st := p.seats[e.Fd]
		if st == nil {
			continue
		}
		st.ended = st.ended || e.Events&^syscall.EPOLLIN != 0
		st.again = st.ended
		if !st.waits {
			st.again = true
			continue
		}
		n, err := recv(uintptr(st.fd), st.p)
		for err == syscall.EINTR {
			n, err = recv(uintptr(st.fd), st.p)
		}
		if err == syscall.EAGAIN {
			continue
		}
		if st.err = nil; err != 0 {
			st.err = err
		}
		st.waits, st.p, st.n = false, nil, n
		to = append(to, st)
	}
	return to
}

// due appends those whose deadline has passed, or all that wait. They wait no more.
func (p *poller) due(to []*seat, now time.Time, all bool) []*seat {
	for _, st := range p.seats {
		if st.waits && (all || st.r.past(now)) {
			st.waits = false
			to = append(to, st)
		}
	}
	return to
}

func (p *poller) close() {
	if p.fd != 0 {
		syscall.Close(p.fd)
	}
	*p = poller{closed: true}
}
