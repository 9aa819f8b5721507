package conf

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rtmp-forward/forward/internal/option"
)

// Ignored is a directive of the format that this module does not support.
type Ignored struct {
	Name string
	Pos  Position
}

// Check compares f with the known directives. The supported ones are:
//
//	listen ADDRESS…; max_connections N; chunk_size BYTES; pid PATH;
//	destination_table PATH;
//	rtmp { listen ADDRESS…; chunk_size BYTES; }
//	rtmps { enabled; listen ADDRESS…; key PATH; cert PATH; }
//	publish_auth { enabled; method adobe|llnw; user NAME PASSWORD; }
//	log_names on|off;
//	http { listen ADDRESS…; token TOKEN; host NAME…; cert PATH; key PATH; }
//	webhooks { url URL; secret SECRET…; events KIND…; names on|off;
//	           timeout_ms MILLISECONDS; }
//	vhost NAME {
//	    enabled on|off; tcp_nodelay on|off; chunk_size BYTES;
//	    forward {
//	        enabled; backend URL; timeout_ms, refresh_ms MILLISECONDS;
//	        on_failure closed|open|last_good|URL|DESTINATION;
//	        destination DESTINATION…;
//	        destination DESTINATION {
//	            stream_key KEY; user NAME PASSWORD; profile PROFILE;
//	            tc_url URL; flash_ver TEXT; chunk_size BYTES;
//	            server_name NAME; fingerprint HEX;
//	            redirect same_host|never|anywhere;
//	            no_release_stream, no_fc_publish, plain_metadata, no_metadata,
//	            digest_handshake on|off; timestamps stream|zero|increasing;
//	            merge_window_ms, dial_timeout_ms, setup_timeout_ms,
//	            publish_timeout_ms MILLISECONDS;
//	        }
//	    }
//	    play { gop_cache on|off; queue_length SECONDS; mw_latency MILLISECONDS;
//	           end_players on|off; player_wait MILLISECONDS; }
//	    publish { firstpkt_timeout MILLISECONDS; normal_timeout MILLISECONDS;
//	              grace MILLISECONDS; grace_unpublish on|off; takeover on|off;
//	              standby N; standby_stall, standby_return MILLISECONDS;
//	              standby_rank PARAM; standby_same_format on|off; }
//	    http_hooks { enabled; on_connect URL…; on_close, on_publish,
//	                 on_unpublish, on_play, on_stop likewise;
//	                 timeout_ms MILLISECONDS; }
//	}
//
// Directives with "…" take several values and may be repeated, which adds values; both forms
// of destination may be mixed. The user of publish_auth may be repeated with other names. Any
// other directive may occur once in a block, and a vhost once per name. publish_auth,
// log_names, http, webhooks, destination_table, grace, grace_unpublish, takeover, standby and
// the directives that begin with it, end_players, player_wait, timeout_ms, refresh_ms,
// on_failure and the block of a destination are this module's own; all others are SRS's.
// Package option has the table of that block's options.
//
// Load has already replaced include, ${NAME}, NAME_file and SRS's variables.
//
// Other directives of SRS (up to version 7, including older spellings that it still reads)
// are returned in ignored, in the file's order. Their blocks are not examined. An unknown
// name or a wrong value is an error. err is always an *Error, about the first fault; ignored
// then contains the directives before it.
func Check(f *File) (ignored []Ignored, err error) {
	c := checker{}
	err = c.block(topLevel, f.Root)
	return c.ignored, err
}

// context lists the directives that are permitted in one kind of block.
type context struct {
	name    string
	done    map[string]rule
	ignored map[string]bool
}

// rule describes what must follow a directive's name.
type rule struct {
	value   *value   // nil if there is none
	pair    *value   // the second value; nil if there is none
	named   bool     // value is a name: there may be one directive per name
	noCase  bool     // the case of the name does not count
	many    bool     // one or more values, in one or more directives
	block   *context // nil if ";" must follow
	options *context // a block that may replace ";" after a single value
}

// value is a kind of value.
type value struct {
	expected string
	valid    func(string) bool
	secret   bool // may contain a key or a token: never shown
}

var (
	onOff      = oneOf("on", "off")
	name       = &value{expected: "a name", valid: notEmpty}
	path       = &value{expected: "a path", valid: notEmpty}
	user       = &value{expected: "a user's name", valid: notEmpty}
	password   = text("a password", 1, 4096, true)
	method     = oneOf("adobe", "llnw")
	bearer     = &value{expected: "a token of 16 to 4096 letters, digits and signs, without spaces", valid: isToken, secret: true}
	hookSecret = &value{expected: "a secret of 16 to 4096 bytes, or base64 after whsec_", valid: isHookSecret, secret: true}
	eventKind  = oneOf("publish", "live", "codec", "publisher_lost", "publisher", "unpublish", "destination", "first_keyframe",
		"dropped", "retry", "play", "stop", "resolver_failing", "resolver_well")
	hostName     = &value{expected: "the name of a host, without a port", valid: isHostName}
	connections  = integer("a number of connections", 1, 1<<31-1)
	chunkSize    = integer("a chunk size in bytes", 128, 65536) // the range SRS accepts
	seconds      = integer("whole seconds", 0, 1<<31-1)
	milliseconds = integer("whole milliseconds", 0, 1<<31-1)
	address      = &value{expected: "a port, host:port or [ipv6]:port", valid: isAddress}
	destination  = &value{expected: "host, host:port, [ipv6]:port, or an rtmp:// or rtmps:// URL", valid: isDestination, secret: true}
	httpURL      = &value{expected: "an http:// or https:// URL", valid: isHTTPURL, secret: true}
	onFailure    = &value{expected: `"closed", "open", "last_good", an http:// or https:// URL, or a destination`, valid: isFailure, secret: true}
	refresh      = integer("whole milliseconds", 1000, 1<<31-1)
	timeLimit    = integer("whole milliseconds", 1, 1<<31-1)
)

var (
	topLevel = &context{
		name: "the top level",
		done: map[string]rule{
			"listen":            {value: address, many: true},
			"max_connections":   {value: connections},
			"chunk_size":        {value: chunkSize},
			"pid":               {value: path},
			"destination_table": {value: path},
			"rtmp":              {block: rtmp},
			"rtmps":             {block: rtmps},
			"publish_auth":      {block: publishAuth},
			"log_names":         {value: onOff},
			"http":              {block: httpBlock},
			"webhooks":          {block: webhooks},
			"vhost":             {value: name, named: true, noCase: true, block: vhost},
		},
		ignored: names(`asprocess auto_reload_for_docker circuit_breaker daemon
			disable_daemon_for_docker empty_ip_ok exporter ff_log_dir ff_log_level
			first_wait_for_qlv force_grace_quit grace_final_wait grace_start_wait
			heartbeat http_api http_server http_stream in_docker
			inotify_auto_reload is_full pithy_print_ms query_latest_version
			rtc_server rtsp_server server_id srs_log_file srs_log_level
			srs_log_level_v2 srs_log_tank srt_server stats stream_caster
			tcmalloc_release_rate tencentcloud_apm tencentcloud_cls threads
			utc_time work_dir`),
	}
	rtmp = &context{
		name: "rtmp",
		done: map[string]rule{
			"listen":     {value: address, many: true},
			"chunk_size": {value: chunkSize},
		},
	}
	rtmps = &context{
		name: "rtmps",
		done: map[string]rule{
			"enabled": {value: onOff},
			"listen":  {value: address, many: true},
			"key":     {value: path},
			"cert":    {value: path},
		},
	}
	publishAuth = &context{
		name: "publish_auth",
		done: map[string]rule{
			"enabled": {value: onOff},
			"method":  {value: method},
			"user":    {value: user, pair: password, named: true},
		},
	}
	httpBlock = &context{
		name: "http",
		done: map[string]rule{
			"listen": {value: address, many: true},
			"token":  {value: bearer},
			"host":   {value: hostName, many: true},
			"cert":   {value: path},
			"key":    {value: path},
		},
	}
	webhooks = &context{
		name: "webhooks",
		done: map[string]rule{
			"url":        {value: httpURL},
			"secret":     {value: hookSecret, many: true},
			"events":     {value: eventKind, many: true},
			"names":      {value: onOff},
			"timeout_ms": {value: timeLimit},
		},
	}
	vhost = &context{
		name: "vhost",
		done: map[string]rule{
			"enabled":     {value: onOff},
			"tcp_nodelay": {value: onOff},
			"chunk_size":  {value: chunkSize},
			"forward":     {block: forward},
			"play":        {block: play},
			"publish":     {block: publish},
			"http_hooks":  {block: httpHooks},
		},
		// The second list contains the names that SRS has moved into blocks since, except
		// those that Load moves.
		ignored: names(`bandcheck cluster dash dvr exec hds hls http_remux
			http_static in_ack_size ingest min_latency out_ack_size refer
			rtc rtsp security srt transcode`,
			`atc atc_auto debug_srs_upnode gop_cache_max_frames http
			mix_correct mode mr nack origin reduce_sequence_header refer_play
			refer_publish send_min_interval time_jitter token_traverse twcc vhost`),
	}
	forward = &context{
		name: "forward",
		done: map[string]rule{
			"enabled":     {value: onOff},
			"destination": {value: destination, many: true, options: destinationOptions},
			"backend":     {value: httpURL},
			"timeout_ms":  {value: timeLimit},
			"refresh_ms":  {value: refresh},
			"on_failure":  {value: onFailure},
		},
	}
	destinationOptions = &context{
		name: "destination",
		done: optionRules(),
	}
	play = &context{
		name: "play",
		done: map[string]rule{
			"gop_cache":    {value: onOff},
			"queue_length": {value: seconds},
			"mw_latency":   {value: milliseconds},
			"end_players":  {value: onOff},
			"player_wait":  {value: milliseconds},
		},
		ignored: names(`atc atc_auto gop_cache_max_frames mix_correct mw_msgs
			reduce_sequence_header send_min_interval time_jitter`),
	}
	publish = &context{
		name: "publish",
		done: map[string]rule{
			"firstpkt_timeout": {value: milliseconds},
			"normal_timeout":   {value: milliseconds},
			"grace":            {value: milliseconds},
			"grace_unpublish":  {value: onOff},
			"takeover":         {value: onOff},

			"standby":             {value: integer("a number of publishers", 0, 64)},
			"standby_stall":       {value: integer("whole milliseconds", 1, 1<<31-1)},
			"standby_return":      {value: milliseconds},
			"standby_rank":        {value: name},
			"standby_same_format": {value: onOff},
		},
		ignored: names("kickoff_for_idle mr mr_latency parse_sps try_annexb_first"),
	}
	httpHooks = &context{
		name: "http_hooks",
		done: map[string]rule{
			"enabled":      {value: onOff},
			"on_connect":   {value: httpURL, many: true},
			"on_close":     {value: httpURL, many: true},
			"on_publish":   {value: httpURL, many: true},
			"on_unpublish": {value: httpURL, many: true},
			"on_play":      {value: httpURL, many: true},
			"on_stop":      {value: httpURL, many: true},
			"timeout_ms":   {value: timeLimit},
		},
		ignored: names("on_dvr on_hls on_hls_notify"),
	}

	contexts = []*context{topLevel, rtmp, rtmps, publishAuth, httpBlock, webhooks, vhost, forward, destinationOptions, play, publish, httpHooks}
)

// optionRules returns the rules of a destination's options.
func optionRules() map[string]rule {
	rules := make(map[string]rule)
	for _, o := range option.All {
		v := optionValue(o)
		switch {
		case v == nil: // the value of the directive destination
		case o.After != "":
			r := rules[o.After]
			r.pair = v
			rules[o.After] = r
		default:
			rules[o.Name] = rule{value: v}
		}
	}
	return rules
}

// optionValue returns the kind of an option's value, or nil for the URL.
func optionValue(o option.Option) *value {
	switch v := o.Value.(type) {
	case *option.Text:
		return text(v.What, v.Min, v.Max, o.Secret)
	case *option.Hash:
		return &value{expected: "a SHA-256 in 64 hex digits", valid: isSHA256}
	case *option.Choice:
		return oneOf(v.Words...)
	case *option.Switch:
		return onOff
	case *option.Number:
		return integer(v.What, uint64(v.Min), uint64(v.Max))
	case *option.Milliseconds:
		return integer("whole milliseconds", uint64(v.Min), uint64(v.Max))
	}
	return nil
}

func names(lists ...string) map[string]bool {
	set := map[string]bool{}
	for _, name := range strings.Fields(strings.Join(lists, " ")) {
		set[name] = true
	}
	return set
}

type checker struct{ ignored []Ignored }

func (c *checker) block(in *context, block []*Directive) error {
	seen := map[string]*Directive{}
	for _, d := range block {
		r, ok := in.done[d.Name]
		if !ok && in.ignored[d.Name] {
			c.ignored = append(c.ignored, Ignored{Name: d.Name, Pos: d.Pos})
			continue
		}
		if !ok {
			return &Error{Pos: d.Pos, Found: shown(d.Name), Expected: in.expected(d.Name)}
		}
		if err := r.check(d); err != nil {
			return err
		}
		if err := once(seen, d, r); err != nil {
			return err
		}
		if d.Block == nil {
			continue
		}
		inside := r.block
		if inside == nil {
			inside = r.options
		}
		if err := c.block(inside, d.Block); err != nil {
			return err
		}
	}
	return nil
}

// check compares the words after d's name with r, in their order.
func (r rule) check(d *Directive) error {
	end := `";"`
	if r.block != nil {
		end = `"{"`
	}
	values := []*value{}
	for _, v := range []*value{r.value, r.pair} {
		if v != nil {
			values = append(values, v)
		}
	}
	most := len(values)
	if r.many {
		most = len(d.Args)
	}
	for i, arg := range d.Args {
		found := shown(arg)
		var v *value
		if most > 0 {
			v = values[min(i, len(values)-1)]
			if o := d.Origin(i); o != "" {
				found = o
			} else if v.secret {
				found = fmt.Sprintf("value %d of %s", i+1, d.Name)
			}
		}
		if i >= most {
			return &Error{Pos: d.ArgPos(i), Found: found, Expected: end}
		}
		if !utf8.ValidString(arg) { // from the file of a value, or from the environment
			return &Error{Pos: d.ArgPos(i), Found: found, Expected: "UTF-8 text"}
		}
		if v.valid(arg) {
			continue
		}
		expected := v.expected
		if r.many && i > 0 {
			expected = end + " or " + expected
		}
		return &Error{Pos: d.ArgPos(i), Found: found, Expected: expected}
	}
	found := `";"`
	if d.Block != nil {
		found = `"{"`
	}
	if n := len(d.Args); n < len(values) {
		return &Error{Pos: d.ArgPos(n), Found: found, Expected: values[n].expected}
	}
	switch {
	case found == end:
	case r.options == nil:
		return &Error{Pos: d.ArgPos(len(d.Args)), Found: found, Expected: end}
	case len(d.Args) > 1:
		return &Error{Pos: d.ArgPos(len(d.Args)), Found: found, Expected: end + ": options are for a single " + d.Name}
	}
	return nil
}

// once adds d to seen. It returns an error if d is there already, unless r permits many.
// Directives that are named count once per name.
func once(seen map[string]*Directive, d *Directive, r rule) error {
	key, found := d.Name, fmt.Sprintf("a second %q", d.Name)
	if r.named {
		name := d.Args[0]
		if r.noCase {
			name = strings.ToLower(name)
		}
		key += " " + name
		found = fmt.Sprintf("a second %s %q", d.Name, d.Args[0])
		if o := d.Origin(0); o != "" {
			found = fmt.Sprintf("a second %s of that name: %s", d.Name, o)
		}
	}
	first, again := seen[key]
	if again && !r.many {
		return &Error{Pos: d.Pos, Found: found, Expected: fmt.Sprintf("only the one at %s", first.Pos)}
	}
	seen[key] = d
	return nil
}

// expected returns what an error expects in place of the unknown name.
func (in *context) expected(unknown string) string {
	expected := "a directive of " + in.name
	if s := in.similar(unknown); s != "" {
		return fmt.Sprintf("%s (did you mean %q?)", expected, s)
	}
	var homes []string
	for _, other := range contexts {
		if r, ok := other.done[unknown]; ok && r.block == nil {
			homes = append(homes, other.name)
		}
	}
	if len(homes) > 0 {
		return fmt.Sprintf("%s (%q belongs in %s)", expected, unknown, strings.Join(homes, " or "))
	}
	return expected
}

// similar returns the name nearest to unknown. It is empty if that differs by more than two
// edits, or by more edits than half the length of unknown.
func (in *context) similar(unknown string) string {
	limit := min(2, len(unknown)/2)
	candidates := slices.Sorted(maps.Keys(in.done))
	candidates = append(candidates, slices.Sorted(maps.Keys(in.ignored))...)
	nearest := ""
	for _, s := range candidates {
		// Lengths are compared first: a word may be as long as the file.
		if max(len(s)-len(unknown), len(unknown)-len(s)) > limit {
			continue
		}
		if n := edits(s, unknown); n <= limit {
			nearest, limit = s, n-1
		}
	}
	return nearest
}

// edits returns the Levenshtein distance of a and b, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			n := diagonal
			if a[i] != b[j] {
				n = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], n
		}
	}
	return row[len(b)]
}

// shown returns a word as errors show it. A word in the wrong place may be a URL with a
// stream key or a token, so it is cut where these would begin.
func shown(s string) string {
	const longest = 40 // characters
	start := strings.Index(s, "://")
	if start >= 0 {
		start += len("://")
	} else {
		start = 0
	}
	end := len(s)
	if n := strings.IndexAny(s[start:], "/?#=%&"); n >= 0 {
		end = start + n
	}
	if strings.Contains(s[start:], "@") { // the text before it may be a password
		end = start
	}
	runes := 0
	for i := range s[:end] {
		if runes++; runes > longest {
			end = i
			break
		}
	}
	if end < len(s) {
		return strconv.Quote(s[:end] + "…")
	}
	return strconv.Quote(s)
}
