package sys

import (
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// MemoryLimit returns how many bytes the process may use: GOMEMLIMIT, or the limit of its
// cgroup, whichever is lower; 0 if there is no limit.
func MemoryLimit() int64 {
	limit := min(debug.SetMemoryLimit(-1), cgroupLimit(os.ReadFile))
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// cgroupLimit returns the lowest limit of the process's own group and of the root, which is
// the own group in a container. It supports versions 1 and 2 of cgroups. Without a limit,
// version 1 reports a number that is larger than any memory; it is ignored.
func cgroupLimit(read func(string) ([]byte, error)) int64 {
	const root = "/sys/fs/cgroup"
	files := []string{root + "/memory.max", root + "/memory/memory.limit_in_bytes"}
	groups, _ := read("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		switch controllers {
		case "":
			files = append(files, path.Join(root, group, "memory.max"))
		case "memory":
			files = append(files, path.Join(root, "memory", group, "memory.limit_in_bytes"))
		}
	}
	limit := int64(math.MaxInt64)
	for _, f := range files {
		b, err := read(f)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 && n < 1<<60 {
			limit = min(limit, n)
		}
	}
	return limit
}
