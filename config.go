package forward

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/sys"
)

// Config is everything tunable of a Server. The zero value works: each zero
// field stands for the default named with it. A negative duration or limit
// means none, or at once where that is said.
type Config struct {
	// Addr is the TCP address ListenAndServe listens on. Default ":1935".
	Addr string

	// Resolver says where a stream goes. Default: nowhere, the Server only
	// serves players.
	Resolver DestinationResolver

	// RefreshInterval is how often the Resolver is asked again while a
	// stream is live; see Source.Refresh. It and the time of an answer are
	// at least 1 s, and up to a tenth is added, so that streams that began
	// together do not ask together. Default and negative: only when the
	// time of an answer (TTLResolver) has passed, or when the host calls
	// Refresh.
	RefreshInterval time.Duration

	// Hooks are asked and told what publishers and players do.
	Hooks Hooks

	// PublishAuth, where it is not nil, makes publishers over the network
	// prove that they know a user's password: they are asked in the way of
	// PublishAuthMethod, which OBS, FFmpeg and hardware encoders answer when
	// they are given a user and a password. The password itself is never
	// sent, and an answer is good once; who can read the connection can try
	// passwords against it, so TLS is still of use. It returns a user's
	// password, false for no user of ours, and is called concurrently. The
	// name of the user is PublishRequest.User: which streams he may publish
	// is for OnPublish to say. Who is a publisher is seen by flashVer, which
	// begins with "FMLE/" or holds "FMSc/"; others are not asked and can
	// only play. GStreamer's rtmp2sink needs to be given such a flash-version.
	PublishAuth func(user string) (password Secret, ok bool)

	// PublishAuthMethod is how publishers are asked. Default AuthAdobe.
	PublishAuthMethod AuthMethod

	// Logger gets the Server's log: Info for a stream's start and end, Warn
	// for a destination that is lost, Debug for protocol detail, nothing
	// for each message. What clients can cause at will, such as connections that
	// fail, hooks that panic and destinations that cannot be used, is logged by
	// cause: 4 lines, then one every 30 s for the last of them, with its time (at)
	// and how many are left out (not_logged). Default slog.Default().
	Logger *slog.Logger

	// Dial connects to destinations that have no DialContext of their own.
	// Default: what Destination.DialContext says. Names are resolved anew
	// each time.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// AllowNetworks is where destinations may lead besides, depending on
	// who has named them:
	//
	//   - the host's code or configuration (Static and the like,
	//     Source.Forward): anywhere;
	//   - the operator over the network (the backend of an HTTPResolver, the
	//     control handler): anywhere but to link-local addresses and those of
	//     metadata services, such as 169.254.169.254 and fd00:ec2::254;
	//   - others (a publisher by FromParam, or by its own param, tcUrl or
	//     pageUrl where a backend repeats them; another server by
	//     RedirectAnywhere; Destination.Untrusted): to public addresses.
	//
	// What is refused so is allowed where a prefix here holds it; see
	// PrivateNetworks. A link-local or metadata address needs a prefix within
	// its range: 169.254.0.0/16 or longer, or fd00:ec2::254/128, but not
	// 0.0.0.0/0 or fc00::/7. Nothing lets the second and third kind to the
	// Server's own listeners; where the host itself names one, the stream is
	// refused at connect (ErrLoop). Default none.
	//
	// Checked are the addresses that a name leads to, at each attempt, and
	// the IPv4 address within an IPv6 one (NAT64, 6to4, Teredo, ISATAP and the
	// like) as well; what is refused is an *AddressError. Where Dial, or a
	// destination's DialContext, is set, the addresses it tries are not known:
	// checked is the one it has connected to, where the connection's
	// RemoteAddr is a *net.TCPAddr, and before that the one in the URL, if
	// there is one.
	AllowNetworks []netip.Prefix

	// AllowPorts are ports below 1024 that destinations from outside, the
	// last kind above, may have besides 443, and that redirects may lead to.
	// Default none. What the host and the operator name may have any port.
	AllowPorts []uint16

	// TLSConfig is for rtmps destinations that have none of their own.
	TLSConfig *tls.Config

	// Vhosts overrides settings for single vhosts. A stream's vhost is a part
	// of its identity: the same path in two vhosts is two streams. Names of
	// vhosts have no case and hold no slash.
	//
	// A vhost that a client names (?vhost=) is one of its own, listed or not.
	// One that is not listed has the settings of DefaultVhost. When Vhosts is
	// not empty and DefaultVhost is not listed, its clients are refused. A
	// tcUrl whose host is listed names that vhost, any other host names none.
	Vhosts map[string]Vhost

	// NoGOPCache makes players and destinations begin with the next
	// keyframe instead of the last one.
	NoGOPCache bool

	// RawTimestamps passes a publisher's timestamps on as they come in any
	// case. By default timestamps go on where they were when a publisher's
	// clock is set back by more than 2 s, with one offset for audio, video and
	// data: recorders and HLS packagers can't stand times that go back. A
	// message whose time is more than 2 s off gets that of the message before
	// it. A jump forward passes once it is confirmed: by the other track, or
	// by several messages in a row. Small steps back always pass.
	RawTimestamps bool

	// MaxLatency is how far in time a player or destination may lag, counted
	// from where it began. A receiver that is four fifths of it behind skips
	// to the newest keyframe, if one is ahead. On Linux bytes in flight count
	// too, with a limit of nine tenths. A receiver that is all of it behind
	// skips in any case, and waits up to 5 s for a keyframe. It does not
	// limit the last GOP, with which new receivers begin: see MaxBytes.
	// Default 10 s.
	MaxLatency time.Duration

	// MaxBytes is how many bytes of a stream are kept: the last GOP, however
	// long it is, for new receivers, and more for those who lag. A receiver
	// for which no keyframe is kept, and none comes within 5 s, begins with
	// what comes, after the headers; ForwarderStats.Warning says so for a
	// destination, and the log for a player. Each message counts for 200 bytes
	// more than it has. A receiver that has fallen behind by half of MaxBytes
	// goes on at the newest keyframe, too. Default 16 MiB.
	MaxBytes int

	// MemoryBudget is how many bytes of memory all streams together keep, with
	// all that is kept beside the bytes of a message, and the messages that
	// publishers and others have begun to send (of an accepted publisher, in
	// steps of 16 KiB; of others, of 1 KiB). Near it the Server sheds in
	// steps: at 80 % new publishers are refused, and receivers cut off that
	// still keep a stream that has ended; at 90 % each stream keeps no more
	// than its share, and at 95 % the receiver is cut off that keeps most of
	// a stream by lagging behind.
	//
	// Connections whose publish has not been accepted, and destinations, have
	// an eighth of it for what they have begun to send; when they need more,
	// or an accepted publisher does and all of the budget is in use, the one of
	// them is closed that holds most. When there is none left, a publisher's
	// connection ends whose message has no room.
	//
	// By default all Servers of the process share one budget: a quarter of
	// what the process may use (GOMEMLIMIT, or the memory limit of its
	// cgroup, when the first Server is made), 512 MiB where there is no such
	// limit. A Server that has a MemoryBudget counts for itself alone, and
	// is not part of what the others share. A Reload from one to the other
	// is for the streams and connections that begin from then on.
	MemoryBudget int

	// MergeWindow is how long messages are held back at most to send more
	// of them in one write (the field's merged write; mw_latency). It is the
	// latency added, and what saves most of the CPU time. Default 50 ms;
	// negative sends at once. On Linux that is within 2.5 ms while such
	// publishers, at least 8, send more than 2000 messages a second in all:
	// then they are read together.
	MergeWindow time.Duration

	// ChunkSize is the size of the chunks we send, 128 to 65536 bytes.
	// Default 60000.
	ChunkSize int

	// HandshakeTimeout limits the handshake, SetupTimeout the time from
	// accepting a connection to its publish or play, without the time hooks
	// take. Defaults 5 s and 10 s.
	HandshakeTimeout time.Duration
	SetupTimeout     time.Duration

	// FirstMediaTimeout and ReadTimeout end a publisher that sends no media
	// after its publish, and later; ReadTimeout may be a tenth shorter, at
	// most 1 s. Of several publishes of a connection each is measured by its
	// own media, and both may be 1 s longer. Defaults 15 s and 10 s.
	FirstMediaTimeout time.Duration
	ReadTimeout       time.Duration

	// PublishGrace is how long a stream goes on without its publisher when that
	// is lost, which means that its connection has ended without an unpublish:
	// players and destinations stay connected. Who publishes the name meanwhile,
	// asked about as any publisher, goes on with the stream from its first
	// keyframe on, with times behind those before (but see RawTimestamps).
	// When it is over and no keyframe has come of anybody, the stream ends.
	// Default 0: the stream ends at once.
	PublishGrace time.Duration

	// GraceUnpublish has PublishGrace cover a publisher that unpublishes, too:
	// for destinations that must see one broadcast of an encoder that ends and
	// begins again.
	GraceUnpublish bool

	// Takeover lets a publisher take the name of a stream that has one already:
	// when it is accepted and its first keyframe has come, it goes on with the
	// stream as after PublishGrace, and the one before is disconnected. Without
	// it the second one is refused (ErrStreamBusy). Whoever may publish a name
	// can then throw out who does: decide in Hooks.OnPublish.
	Takeover bool

	// EndPlayers tells players when their stream ends (StreamEOF,
	// NetStream.Play.UnpublishNotify), on which most of them leave. Who stays is
	// told when the next publisher comes. By default players are told nothing
	// and wait for the next publisher of the name, with which they go on: from
	// its headers and a keyframe, with times behind those before (but see
	// RawTimestamps). OnPlay is not asked again.
	EndPlayers bool

	// PlayerWait is how long a player may wait for a publisher, for the first
	// one and between two. Then it is told the end and disconnected. Default 0
	// and negative: no limit.
	PlayerWait time.Duration

	// WriteTimeout ends a connection whose peer takes less than 16 KiB in this
	// time while more is there for it, however much that is. Default 10 s.
	WriteTimeout time.Duration

	// DrainTimeout is how long a destination may take, after the publisher
	// has gone, for what is left and its unpublish. Default 5 s.
	DrainTimeout time.Duration

	// Backoff says when a lost destination is tried again.
	Backoff Backoff

	// Retry, where it is not nil, is asked before each of these attempts and
	// may choose another delay: zero takes RetryInfo.Delay, and a negative
	// one gives up. Who is given up stays in StateWaiting for as long as the
	// stream lives, unless the host closes or updates the Forwarder, or a
	// refresh gives another destination in its place. It is called with no
	// lock held, concurrently for different destinations, and holds nobody
	// but that one. Where it panics, the delay is RetryInfo.Delay.
	Retry func(RetryInfo) time.Duration

	// Limits bounds what peers may ask for.
	Limits Limits
}

// AuthMethod is a way to ask publishers for user and password. No
// specification has them; OBS, FFmpeg and librtmp answer both.
type AuthMethod string

// The methods. Both rest on MD5 and hide the password from who reads along no
// better than it is hard to guess.
const (
	AuthAdobe     AuthMethod = rtmp.AuthAdobe // as Flash Media Server asks
	AuthLimelight AuthMethod = rtmp.AuthLLNW  // as Limelight asks
)

// Vhost holds the settings of one vhost. A zero field means the Config's.
type Vhost struct {
	Disabled          bool // refuse its clients
	Resolver          DestinationResolver
	RefreshInterval   time.Duration
	ChunkSize         int
	NoGOPCache        bool
	MaxLatency        time.Duration
	MergeWindow       time.Duration
	FirstMediaTimeout time.Duration
	ReadTimeout       time.Duration
	PublishGrace      time.Duration
	GraceUnpublish    bool
	Takeover          bool
	EndPlayers        bool
	PlayerWait        time.Duration
}

// Backoff is the delay between two attempts to reach a destination: it begins
// at Min, is doubled with each attempt, and is Max once that is reached. Below
// Max it is a random time between half of it and all of it, so that
// destinations that were lost together do not come back together. With the
// defaults that is at most 7 attempts in the first minute, and 2 in each one
// later.
type Backoff struct {
	Min time.Duration // default 1 s; negative: at once
	Max time.Duration // default 30 s
	// Healthy is how long a destination must have been sent to until the
	// next loss begins at Min again. What ends earlier doubles the delay
	// twice. Default 30 s.
	Healthy time.Duration
	// RefusedMin and RefusedMax take the place of Min and Max after a
	// refusal that will not change by itself, such as a wrong stream key.
	// The delay is at least RefusedMin. Defaults 10 s and 5 min.
	RefusedMin time.Duration
	RefusedMax time.Duration
}

const (
	// setupBuffer is the read buffer of a connection that has not been
	// accepted yet, playBuffer that of a player, which sends next to
	// nothing, publishBuffer that of a publisher.
	setupBuffer   = 1 << 10
	playBuffer    = 128
	publishBuffer = 32 << 10
	// maxChunkSize is what all servers known to us take.
	maxChunkSize = 65536
	// maxMergeWindow keeps a mistaken unit from looking like a dead stream.
	maxMergeWindow = 10 * time.Second
)

// withDefaults fills in the defaults.
func (c Config) withDefaults() Config {
	def(&c.Addr, ":1935")
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Resolver == nil {
		c.Resolver = static(nil)
	}
	def(&c.PublishAuthMethod, AuthAdobe)
	def(&c.MaxLatency, 10*time.Second)
	def(&c.MaxBytes, 16<<20)
	def(&c.MergeWindow, 50*time.Millisecond)
	def(&c.ChunkSize, 60000)
	def(&c.HandshakeTimeout, 5*time.Second)
	def(&c.SetupTimeout, 10*time.Second)
	def(&c.FirstMediaTimeout, 15*time.Second)
	def(&c.ReadTimeout, 10*time.Second)
	def(&c.WriteTimeout, 10*time.Second)
	def(&c.DrainTimeout, 5*time.Second)
	def(&c.Backoff.Min, time.Second)
	def(&c.Backoff.Max, 30*time.Second)
	def(&c.Backoff.Healthy, 30*time.Second)
	def(&c.Backoff.RefusedMin, 10*time.Second)
	def(&c.Backoff.RefusedMax, 5*time.Minute)
	l := &c.Limits
	def(&l.Connections, sys.MaxFiles()/5*4)
	def(&l.Connections, 10000)
	def(&l.ConnectionsPerAddress, -1)
	def(&l.RefusalsPerAddress, -1)
	def(&l.PendingHandshakes, 1024)
	def(&l.Streams, 4096)
	def(&l.Destinations, 1024)
	def(&l.TotalDestinations, 16384)
	def(&l.MediaSize, 8<<20)
	def(&l.DataSize, 256<<10)
	def(&l.PartialSize, 16<<20)
	def(&l.ChunkStreams, 32)
	return c
}

// def sets a zero field to its default.
func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate says what is wrong with c, or nil. NewServer does not check: a
// Server with a wrong Config refuses to serve with this error.
func (c Config) Validate() error {
	c = c.withDefaults()
	check := func(where string, chunkSize int, window time.Duration) error {
		if chunkSize < chunk.DefaultSize || chunkSize > maxChunkSize {
			return fmt.Errorf("config%s: ChunkSize is %d, expected %d to %d", where, chunkSize, chunk.DefaultSize, maxChunkSize)
		}
		if window > maxMergeWindow {
			return fmt.Errorf("config%s: MergeWindow is %v, expected at most %v", where, window, maxMergeWindow)
		}
		return nil
	}
	if err := check("", c.ChunkSize, c.MergeWindow); err != nil {
		return err
	}
	if m := c.PublishAuthMethod; m != AuthAdobe && m != AuthLimelight {
		return fmt.Errorf("config: PublishAuthMethod is %q, expected %q or %q", m, AuthAdobe, AuthLimelight)
	}
	if a, b, found := rtmp.SameVhosts(c.Vhosts); found {
		return fmt.Errorf("config: vhosts %q and %q are the same: case does not count", a, b)
	}
	for name := range c.Vhosts {
		if err := rtmp.CheckVhost(name); err != nil {
			return fmt.Errorf("config: vhost %q: %w", name, err)
		}
		v := c.vhost(name)
		if err := check(": vhost "+name, v.ChunkSize, v.MergeWindow); err != nil {
			return err
		}
	}
	return nil
}

// positive is v, or def if v is not above 0.
func positive[T cmp.Ordered](v, def T) T {
	var zero T
	if v > zero {
		return v
	}
	return def
}
