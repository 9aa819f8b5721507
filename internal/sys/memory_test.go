package sys

import (
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCgroupLimit(t *testing.T) {
	for name, row := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"none":         {nil, math.MaxInt64},
		"container":    {map[string]string{"/sys/fs/cgroup/memory.max": "1073741824\n", "/proc/self/cgroup": "0::/\n"}, 1 << 30},
		"service":      {map[string]string{"/proc/self/cgroup": "0::/system.slice/f.service\n", "/sys/fs/cgroup/system.slice/f.service/memory.max": "1000\n"}, 1000},
		"unlimited":    {map[string]string{"/sys/fs/cgroup/memory.max": "max\n"}, math.MaxInt64},
		"lowest":       {map[string]string{"/sys/fs/cgroup/memory.max": "500", "/proc/self/cgroup": "0::/a", "/sys/fs/cgroup/a/memory.max": "1000"}, 500},
		"version 1":    {map[string]string{"/proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/b\n", "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2000\n"}, 2000},
		"unlimited v1": {map[string]string{"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, math.MaxInt64},
		"nonsense":     {map[string]string{"/sys/fs/cgroup/memory.max": "-5", "/proc/self/cgroup": "x\n\n::\n"}, math.MaxInt64},
	} {
		got := cgroupLimit(func(name string) ([]byte, error) {
			if s, ok := row.files[name]; ok {
				return []byte(s), nil
			}
			return nil, os.ErrNotExist
		})
		require.Equal(t, row.want, got, name)
	}
}
