package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// cpuSet is a set of CPUs in the format of sched_setaffinity.
type cpuSet [16]uint64

func (s *cpuSet) add(cpu int) { s[cpu/64] |= 1 << (cpu % 64) }

func (s *cpuSet) list() []int {
	var cpus []int
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			cpus = append(cpus, i*64+bits.TrailingZeros64(word))
		}
	}
	return cpus
}

// affinity returns the CPUs the calling thread may use.
func affinity() (s cpuSet, err error) {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s)))
	if errno != 0 {
		return s, os.NewSyscallError("sched_getaffinity", errno)
	}
	return s, nil
}

// pin ties the calling thread, and all processes that it starts, to cpus.
func pin(cpus ...int) error {
	var s cpuSet
	for _, cpu := range cpus {
		s.add(cpu)
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s)))
	if errno != 0 {
		return os.NewSyscallError("sched_setaffinity", errno)
	}
	return nil
}

// raiseFileLimit raises the limit of open files of this process and its children to
// want, or as far as the system allows.
func raiseFileLimit(want uint64) error {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: want, Max: max(want, lim.Max)}) == nil {
		return nil
	}
	lim.Cur = min(want, lim.Max)
	return os.NewSyscallError("setrlimit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim))
}

// process is a server under test.
type process struct {
	cmd        *exec.Cmd
	port       int
	securePort int            // for players over TLS, if any
	stderr     bytes.Buffer   // complete once done is closed
	asks       io.WriteCloser // see ask
	answers    *json.Decoder
	done       chan struct{}
	dir        string
}

// startProcess starts cmd on the server's CPU with its errors in stderr, and calls
// cancel when it exits. stop removes dir.
//
// The kernel kills the child when the thread that started it ends, so the caller must
// run on the main thread.
func startProcess(cmd *exec.Cmd, port int, dir string, cpus placement, cancel context.CancelCauseFunc) (*process, error) {
	p := &process{cmd: cmd, port: port, done: make(chan struct{}), dir: dir}
	cmd.Stderr = &p.stderr
	asks, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.asks, p.answers = asks, json.NewDecoder(answers)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := pin(cpus.server); err != nil {
		return nil, err
	}
	err = cmd.Start()
	if perr := pin(cpus.load...); err == nil && perr != nil {
		cmd.Process.Kill()
		err = perr
	}
	if err != nil {
		return nil, err
	}
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exited")
		}
		cancel(fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, lastLine(p.stderr.String())))
		close(p.done)
	}()
	return p, nil
}

// ask makes the library's server collect garbage, if collect is set, and returns what
// the server holds.
func (p *process) ask(collect bool) (h held, err error) {
	if err := json.NewEncoder(p.asks).Encode(collect); err != nil {
		return h, err
	}
	return h, p.answers.Decode(&h)
}

// stop ends the process, with SIGKILL after two seconds.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(2 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
	if p.dir != "" {
		os.RemoveAll(p.dir)
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// usage holds the kernel's accounts at one moment.
type usage struct {
	at       int64
	server   time.Duration // CPU time of all the server's threads
	load     time.Duration // CPU time of this process
	all      time.Duration // busy time of all CPUs
	switches uint64        // context switches of the server
	rss      uint64        // of the server, bytes
	peak     uint64        // its largest rss
}

// usage reads the accounts of the server and of this process. The server's CPU time is
// its process clock: utime+stime of /proc/PID/stat at the scheduler's resolution.
func (p *process) usage() (usage, error) {
	pid := p.cmd.Process.Pid
	u := usage{server: clock(uintptr(^pid)<<3 | 2), load: clock(2), at: now()}
	if u.server < 0 {
		return u, errors.New("the server's process clock cannot be read")
	}
	var err error
	if u.all, err = busy(); err != nil {
		return u, err
	}
	proc := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return u, err
	}
	u.rss, u.peak = field(status, "VmRSS:")<<10, field(status, "VmHWM:")<<10
	tasks, err := filepath.Glob(proc + "/task/*/status")
	if err != nil {
		return u, err
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has exited
		}
		u.switches += field(b, "voluntary_ctxt_switches:") + field(b, "nonvoluntary_ctxt_switches:")
	}
	return u, nil
}

// field returns the number on the line of a status file that starts with name.
func field(status []byte, name string) uint64 {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				v, _ := strconv.ParseUint(string(f[0]), 10, 64)
				return v
			}
		}
	}
	return 0
}

// busy returns the time that all CPUs together were not idle, in clock ticks of 10 ms.
func busy() (time.Duration, error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return 0, err
	}
	var sum uint64
	for i, s := range strings.Fields(line)[1:] {
		const idle, iowait, guest = 3, 4, 8 // user time includes guest time
		if i == idle || i == iowait || i >= guest {
			continue
		}
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += v
	}
	return time.Duration(sum) * 10 * time.Millisecond, nil
}

// placement says which CPUs the server under test and the load run on.
type placement struct {
	server int
	load   []int
}

// place chooses the CPUs: the last for the server, the others for the load. With one
// CPU they share it.
func place() (placement, error) {
	set, err := affinity()
	if err != nil {
		return placement{}, err
	}
	cpus := set.list()
	last := len(cpus) - 1
	if last == 0 {
		return placement{cpus[0], cpus}, nil
	}
	return placement{cpus[last], cpus[:last]}, nil
}

// placeLoad moves this process to its CPUs. It executes itself again, because only then
// do all threads of the runtime follow. It returns the placement once there.
func placeLoad() (placement, error) {
	const env = "FORWARD_BENCH_SERVER_CPU"
	if s := os.Getenv(env); s != "" {
		server, err := strconv.Atoi(s)
		if err != nil {
			return placement{}, fmt.Errorf("%s: %w", env, err)
		}
		set, err := affinity()
		return placement{server, set.list()}, err
	}
	cpus, err := place()
	if err != nil {
		return cpus, err
	}
	runtime.LockOSThread()
	if err := pin(cpus.load...); err != nil {
		return cpus, err
	}
	exe, err := os.Executable()
	if err != nil {
		return cpus, err
	}
	return cpus, os.NewSyscallError("execve", syscall.Exec(exe, os.Args, append(os.Environ(), env+"="+strconv.Itoa(cpus.server))))
}
