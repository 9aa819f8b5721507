package metrics

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hosttest"
)

func read(t *testing.T, name string) string {
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

// exposition is that of the scripted Server.
func exposition(t *testing.T) (all map[string]*dto.MetricFamily) {
	scripted(t, func(b *hosttest.Bubble) { all = gather(t, New(b.Server, Options{})) })
	return all
}

// labelNames are the labels that any series of a metric has.
func labelNames(f *dto.MetricFamily) []string {
	names := make(map[string]bool)
	for _, m := range f.GetMetric() {
		for l := range labels(m) {
			names[l] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// The table of docs/metrics.md has each metric of the exposition with its type, labels
// and text, and no other.
func TestDocumentHasEveryMetric(t *testing.T) {
	all := exposition(t)
	var want strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		quoted := ""
		for _, l := range labelNames(f) {
			quoted += " `" + l + "`"
		}
		fmt.Fprintf(&want, "| `%s` | %s |%s | %s |\n", name, strings.ToLower(f.GetType().String()), quoted, f.GetHelp())
	}
	text, listed := read(t, "../docs/metrics.md"), ""
	for _, row := range regexp.MustCompile("(?m)^\\| `forward_.*\n").FindAllString(text, -1) {
		system := slices.ContainsFunc(needsSystem, func(name string) bool { return strings.HasPrefix(row, "| `"+name+"`") })
		if !system {
			listed += row
		}
	}
	if !strings.Contains(text, want.String()) {
		require.Equal(t, sortedLines(want.String()), sortedLines(listed))
	}
	for _, name := range needsSystem {
		require.Contains(t, text, "| `"+name+"` | gauge | `destination` `host` `stream` |")
		require.True(t, slices.ContainsFunc(destinationMetrics, func(m metric[forward.ForwarderStats]) bool {
			return m.name == name && strings.Contains(text, m.help)
		}))
	}
}

func sortedLines(s string) []string { return slices.Sorted(strings.Lines(s)) }

// queried are the metrics of a query, without the suffixes of a histogram.
func queried(all map[string]*dto.MetricFamily, query string) (names []string) {
	for _, name := range regexp.MustCompile(`\bforward_\w+`).FindAllString(query, -1) {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && all[base] != nil {
				name = base
			}
		}
		names = append(names, name)
	}
	return names
}

// checkQuery fails where a query names a metric that is not there, or a label that none
// of its metrics has.
func checkQuery(t *testing.T, all map[string]*dto.MetricFamily, query string) (names []string) {
	names = queried(all, query)
	require.NotEmpty(t, names, query)
	has := map[string]bool{"le": true, "job": true, "instance": true}
	for _, name := range names {
		if slices.Contains(needsSystem, name) {
			has["destination"], has["host"], has["stream"] = true, true, true
			continue
		}
		require.Contains(t, all, name, query)
		for _, l := range labelNames(all[name]) {
			has[l] = true
		}
	}
	for _, m := range regexp.MustCompile(`\b(?:by|on|ignoring|group_left|group_right|without) ?\(([^)]*)\)`).FindAllStringSubmatch(query, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if l = strings.TrimSpace(l); l != "" {
				require.True(t, has[l], "label %s of %s", l, query)
			}
		}
	}
	for _, m := range regexp.MustCompile(`(\w+) ?(?:=~|!~|!=|=)"`).FindAllStringSubmatch(query, -1) {
		require.True(t, has[m[1]], "label %s of %s", m[1], query)
	}
	for _, m := range regexp.MustCompile(`\{\{ ?(\w+) ?\}\}`).FindAllStringSubmatch(query, -1) {
		require.True(t, has[m[1]], "label %s of %s", m[1], query)
	}
	require.Equal(t, strings.Count(query, "("), strings.Count(query, ")"), query)
	return names
}

// notInDashboard are the metrics that the dashboard deliberately does not show.
var notInDashboard = map[string]string{
	"forward_received_messages_total":               "the panel of a stream has messages as a rate",
	"forward_sent_messages_total":                   "bytes and drops tell more",
	"forward_stream_received_bytes_total":           "its rate is shown as forward_stream_received_bytes_per_second",
	"forward_stream_received_messages_total":        "its rate is shown as forward_stream_received_messages_per_second",
	"forward_stream_frames_total":                   "its rate is shown as forward_stream_frames_per_second",
	"forward_stream_gop_frames":                     "forward_stream_gop_seconds is what a viewer notices",
	"forward_stream_sent_messages_total":            "bytes are shown",
	"forward_stream_push_connects_total":            "shown for each destination",
	"forward_stream_push_accepted_total":            "shown for each destination",
	"forward_stream_push_lost_total":                "shown for each destination",
	"forward_stream_push_dropped_messages_total":    "shown for each destination",
	"forward_stream_players_dropped_messages_total": "shown for all streams together",
	"forward_stream_log_messages":                   "forward_stream_log_bytes is what memory is spent on",
	"forward_destination_sent_bytes_total":          "its rate is shown as forward_destination_sent_bytes_per_second",
	"forward_destination_sent_messages_total":       "its rate is forward_destination_sent_messages_per_second",
	"forward_destination_sent_messages_per_second":  "frames and bytes are shown",
	"forward_destination_lag_messages":              "lag is shown in seconds and bytes",
	"forward_destination_accepted_total":            "in the table as lost and state",
}

// The dashboard queries metrics and labels that are there, and shows each metric, or it
// is listed as not shown.
func TestDashboard(t *testing.T) {
	all := exposition(t)
	var dashboard map[string]any
	require.NoError(t, json.Unmarshal([]byte(read(t, "../docs/grafana/forward.json")), &dashboard))
	shown, panels := make(map[string]bool), 0
	var look func(v any)
	look = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if query, ok := v["expr"].(string); ok {
				legend, _ := v["legendFormat"].(string)
				for _, name := range checkQuery(t, all, query+" "+legend) {
					shown[name] = true
				}
			}
			if _, ok := v["gridPos"]; ok {
				panels++
				require.NotEmpty(t, v["title"])
				if v["type"] != "row" {
					require.NotEmpty(t, v["targets"], v["title"])
				}
			}
			for _, e := range v {
				look(e)
			}
		case []any:
			for _, e := range v {
				look(e)
			}
		}
	}
	look(dashboard)
	require.Greater(t, panels, 10)
	for _, variable := range dashboard["templating"].(map[string]any)["list"].([]any) {
		if query, ok := variable.(map[string]any)["query"].(string); ok && strings.Contains(query, "forward_") {
			checkQuery(t, all, query)
		}
	}
	for name := range all {
		require.NotEqual(t, shown[name], notInDashboard[name] != "", "%s is shown and listed as not shown, or neither", name)
	}
	for _, name := range needsSystem {
		require.True(t, shown[name], name)
	}
	for name := range notInDashboard {
		require.Contains(t, all, name)
	}
}

// The alerting rules of docs/metrics.md query metrics and labels that are there.
func TestRules(t *testing.T) {
	all := exposition(t)
	_, block, ok := strings.Cut(read(t, "../docs/metrics.md"), "```yaml\ngroups:\n")
	require.True(t, ok)
	block, _, _ = strings.Cut(block, "```")
	rules := strings.Split(block, "- alert: ")[1:]
	require.Len(t, rules, 5)
	for _, rule := range rules {
		_, expr, ok := strings.Cut(rule, "\n        expr: |\n")
		require.True(t, ok, rule)
		expr, _, ok = strings.Cut(expr, "\n        for: ")
		require.True(t, ok, rule)
		checkQuery(t, all, expr)
		_, summary, ok := strings.Cut(rule, "summary: ")
		require.True(t, ok, rule)
		for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(summary, -1) {
			checkQuery(t, all, expr+` {{`+m[1]+`}}`)
		}
	}
}
