"""Memory of a bulk embedding, and of a transform into a cache, at two numbers of images. Run alone.

python benchmarks/embedding_memory.py [--images 1000 5000]
"""

import argparse
import subprocess
import sys
import tempfile

SCRIPT = """
import sys, threading, time, warnings
import numpy as np
from PIL import Image
from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.bulk import embed_to_file
from sam_bloodcell.datasets import make_blood_cells

warnings.simplefilter("ignore")
way, n, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
pictures = make_blood_cells(1, random_state=0).images
rng = np.random.default_rng(0)
paths = []
for i in range(n):  # distinct images: one pixel says the number
    picture = pictures[i % len(pictures)].copy()
    picture[0, 0] = [i % 256, i // 256 % 256, i // 65536]
    paths.append(f"{folder}/{i:06d}.bmp")
    Image.fromarray(picture).save(paths[-1])

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1e3

embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=f"{folder}/cache" if way == "cache" else None)
embedder.fit(paths).encoder_.forward(np.zeros((34, 224, 224, 3), np.uint8))
start = peak = anonymous()
done = False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.05)

watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
if way == "cache":
    result = embedder.transform(paths)
else:
    embed_to_file(embedder, paths, f"{folder}/cells.parquet")
seconds = time.perf_counter() - began
done = True
watcher.join()
print(f"{peak - start:.0f} {seconds:.0f}")
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=[1000, 5000])
    args = parser.parse_args()
    for way, what in (("bulk", "embed_to_file"), ("cache", "transform with cache_dir")):
        peaks = []
        for n in args.images:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-c", SCRIPT, way, str(n), folder]
                peak, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            peaks.append(float(peak))
            print(f"{what}: {n} images, peak {peak} MB above the start, {seconds} s", flush=True)
        print(f"{what}: {args.images[1] / args.images[0]:.0f}x the images, {peaks[1] - peaks[0]:+.0f} MB", flush=True)


if __name__ == "__main__":
    main()
