#!/bin/sh
# Ordinary work for a small system, with the same output on every correct machine: smoke.expected.

section() {
    echo "== $1"
}

# check NAME COMMAND...: one word for what can't be an exact number.
check() {
    name=$1
    shift
    if "$@" >/dev/null 2>&1; then echo "$name: ok"; else echo "$name: FAILED"; fi
}

work=/tmp/smoke
mkdir -p $work
cd $work || exit 1

section checksums
seq 1 4000 >numbers
for sum in md5sum sha1sum sha256sum sha512sum sha3sum; do
    $sum <numbers
done
dd if=/dev/zero bs=64k count=8 2>/dev/null | sha256sum
awk 'BEGIN { x = 1; for (i = 0; i < 2500; i++) { x = (x * 16807) % 2147483647; print x } }' >random
md5sum <random

section 'round trips'
gzip -c numbers | gunzip -c | cmp - numbers && echo gzip
gzip -9 -c random | gunzip -c | cmp - random && echo gzip -9
bzip2 -c random | bunzip2 -c | cmp - random && echo bzip2
base64 random | base64 -d | cmp - random && echo base64
uuencode -m name <random | uudecode -o - | cmp - random && echo uuencode
od -A n -v -t x1 numbers | tr -d ' \n' | xxd -r -p | cmp - numbers && echo xxd
mkdir tree
for i in 1 2 3 4 5 6 7 8; do
    mkdir -p tree/$i/sub
    head -n $((i * 100)) numbers >tree/$i/sub/file
done
tar cf - tree | (mkdir copy && cd copy && tar xf -)
diff -r tree copy/tree && echo tar
find tree -type f | cpio -o -H newc 2>/dev/null | (mkdir out && cd out && cpio -i -d 2>/dev/null)
diff -r tree out/tree && echo cpio
find tree -type f | sort | xargs cat | md5sum

section text
sort -n -r random | head -n 3
sort random | uniq | wc -l
sort -n random | sed -n '1000p'
grep -c 7 numbers
sed -e 's/\([0-9]\)\([0-9]\)/\2\1/g' numbers | md5sum
tr 0-9 a-j <numbers | cut -c 1-3 | sort | uniq -c | sort -n -r | head -n 3
head -c 64 numbers | od -A d -t x2
head -c 32 numbers | hexdump -C
rev <numbers | tac | md5sum

section 'floating point'
# This busybox is built without the mathematical functions: series and iterations do the same work.
awk '
function exp_(x,    n, term, sum) { term = sum = 1; for (n = 1; n < 40; n++) { term *= x / n; sum += term } return sum }
function sin_(x,    n, term, sum) { term = sum = x; for (n = 1; n < 20; n++) { term *= -x * x / (2 * n * (2 * n + 1)); sum += term } return sum }
function sqrt_(x,    n, r) { r = x; for (n = 0; n < 60; n++) r = (r + x / r) / 2; return r }
function atan_inverse(x,    n, power, sum) { power = 1 / x; for (n = 0; n < 30; n++) { sum += (n % 2 ? -1 : 1) * power / (2 * n + 1); power /= x * x } return sum }
BEGIN {
    printf "%.12f %.12f %.12f\n", 16 * atan_inverse(5) - 4 * atan_inverse(239), exp_(1), exp_(-2.5)
    printf "%.12f %.12f %.12f\n", sin_(1), sin_(-0.5), sqrt_(2)
    printf "%.10e %g %g %.3f\n", 1 / 3, 1e300 * 1e10, -1e300 * 1e10, -2.5
    printf "%d %d %.4f %.17g\n", int(-3.7), 17 % 5, 7.5 % 2, 0.1 + 0.2
    for (i = 1; i <= 4000; i++) { sum += 1 / (i * i); if (i <= 200) roots += sqrt_(i) }
    printf "%.10f %.8f\n", sum, roots
    for (i = 0; i < 1000; i++) x = x + 0.1
    printf "%.13f %x %c%s\n", x, 48879, 65, substr("abcdef", 2, 3)
    print (0.1 + 0.2 == 0.3), (1e308 * 10 > 1e308), ("10" < "9"), (10 < 9)
    srand(1); r = rand(); print (r >= 0 && r < 1)
}'
seq 0 0.125 1 | tr '\n' ' '
echo

section 'integers'
echo $((0x7fffffffffffffff + 1)) $((-7 / 2)) $((-7 % 2)) $((1 << 62)) $((-1 >> 1)) $((12345678901 * 98765))
echo '2^200; scale=40; 4*a(1); sqrt(2)' | bc -l
echo '20k 2 v 3 * p' | dc
factor 1234567890123456789 999999000001

section processes
i=0
while [ $i -lt 60 ]; do
    i=$((i + 1))
    /bin/true || echo "true failed"
done
echo "$i programs"
i=0
while [ $i -lt 40 ]; do
    i=$((i + 1))
    (echo $((i * i)) >square.$i) &
done
wait
cat square.* | awk '{ sum += $1 } END { print NR " children, sum " sum }'
nest() {
    if [ "$1" = 0 ]; then echo bottom; else (nest $(($1 - 1))); fi
}
nest 20
sh -c 'exit 42'
echo "status $?"

section pipes
yes | head -n 50000 | wc -l
seq 1 2000 | cat | cat | cat | cat | tail -n 1
seq 1 300 | while read -r n; do echo $((n * 2)); done | awk '{ s += $1 } END { print s }'
mkfifo fifo
(seq 1 1000 >fifo) &
md5sum <fifo
wait
(sleep 0.1; echo late) | (read -r word; echo "read $word")

section signals
trap 'echo caught USR1' USR1
kill -USR1 $$
(trap 'echo child got TERM; exit 3' TERM; while :; do sleep 0.05; done) &
sleep 0.3
kill -TERM $!
wait $!
echo "status $?"
trap - USR1
for signal in HUP INT KILL SEGV; do
    sh -c "kill -$signal \$\$; sleep 5"
    echo "$signal: $?"
done 2>/dev/null # The shell's own words about them.
sleep 30 &
kill -STOP $!
sleep 0.1
grep '^State' /proc/$!/status
kill -CONT $!
kill $!
wait $! 2>/dev/null
echo "status $?"

section timers
start=$(cut -d ' ' -f 1 /proc/uptime)
sleep 0.5
end=$(cut -d ' ' -f 1 /proc/uptime)
check 'sleep 0.5' awk "BEGIN { d = $end - $start; exit !(d >= 0.48 && d < 3) }"
before=$(date +%s)
sleep 1
after=$(date +%s)
check 'date' [ $((after - before)) -ge 1 -a $((after - before)) -le 4 ]
timeout 0.3 sleep 20 2>/dev/null
echo "timeout: $?"
(sleep 0.3; echo third) &
(sleep 0.2; echo second) &
(sleep 0.1; echo first) &
wait
check 'clock source' grep -q -x -e tsc -e acpi_pm -e hpet -e jiffies -e kvm-clock \
    /sys/devices/system/clocksource/clocksource0/current_clocksource

section files
mkdir mnt && mount -t tmpfs -o size=1m tmpfs mnt
dd if=/dev/zero of=mnt/big bs=64k count=32 2>/dev/null
wc -c <mnt/big
umount mnt && ls mnt | wc -l
ln -s numbers link && readlink link
ln numbers hard && stat -c %h numbers
chmod 640 numbers && stat -c '%a %s' numbers
dd if=/dev/null of=sparse bs=1 seek=1000000 2>/dev/null
stat -c '%s %b' sparse
touch -d '2001-02-03 04:05:06' old && date -u -r old +%Y-%m-%dT%H:%M:%S
truncate -s 5 hard && cat numbers && echo .
check 'random device' [ "$(dd if=/dev/urandom bs=1k count=16 2>/dev/null | wc -c)" = 16384 ]

section network
ping -c 2 -i 0.2 -W 5 127.0.0.1 | grep received | cut -d , -f 1,2
(echo hello from server | nc -l -p 7000 >received) &
for try in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.1 # Until the server listens.
    echo hello from client | nc -w 5 127.0.0.1 7000 2>/dev/null && break
done
wait
cat received

section cpu
check 'processors' [ "$(grep -c '^processor' /proc/cpuinfo)" = "$(nproc)" ]
for flag in fpu tsc msr pae cx8 apic cmov fxsr sse sse2 syscall nx lm; do
    check $flag [ "$(grep '^flags' /proc/cpuinfo | grep -c -w $flag)" = "$(nproc)" ]
done
check 'frequency' awk '/^cpu MHz/ { exit !($4 > 1) }' /proc/cpuinfo
check 'interrupts' awk '/LOC:|timer/ { n += $2 } END { exit !(n > 10) }' /proc/interrupts

section 'kernel log'
dmesg | grep -i -E 'warning:|bug[]:]|oops:|unstable|lockup|call trace|unchecked msr|panic|stall' | head -n 20
echo end
